"""What is played in the process of `tests.serving.process`, and the parts of its gateway."""

import asyncio
import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import ray
from ray import serve
from ray.serve.api import RunTarget

from coordinator.store.model_records import ArmTotals, Book, ModelVersion, Route, Served
from manta.errors import MantaError
from manta.messages import CallHints, ChatMessage, ChatRequest
from manta.model_settings import ModelSettings
from serve_app.models.deployment import DEPLOYMENT, model_application
from serve_app.models.handles import ServeModel
from serve_app.models.names import model_app
from serve_app.models.platform_models import ServeModels

BATCH = 4
"""`max_batch` of the models that are pressed."""


@dataclasses.dataclass(frozen=True)
class FixedRegistry:
    """Models by name, of which there is one version each."""

    settings: Mapping[str, dict[str, Any]]

    async def book(self, known: int) -> Book | None:
        served = []
        for name, settings in self.settings.items():
            route = Route(name, 1, {1: 1}, "run", "declared", "active", "", 0.0, 0.0, "")
            version = ModelVersion(name, 1, settings, "file", "", "", 0.0, True, None)
            served.append(Served(name, route, (version,)))
        return None if known == 1 else Book(1, tuple(served))

    async def record(self, meter: str, totals: Sequence[ArmTotals]) -> None:
        """Nobody compares."""


class NoKeys:
    """A coordinator that has no keys, and is asked for nothing else."""

    async def call(self, method: str, *arguments: Any, patience_s: float = 15.0) -> Any:
        return None


def connect(settings: Mapping[str, dict[str, Any]]) -> Any:
    """The parts of a gateway that asks models only."""
    from serve_app.gateway.deps import Platform

    nothing: Any = NoKeys()
    models = ServeModels(FixedRegistry(settings), next(iter(settings)))  # type: ignore[arg-type]
    return Platform(
        coordinator=nothing,
        documents=nothing,
        artifacts=nothing,
        models=models,
        keeper=nothing,
        embedder=nothing,
        default_model=next(iter(settings)),
    )


_served: dict[str, ServeModel] = {}


def served(model: str) -> ServeModel:
    """Its handle is made once, as everywhere."""
    return _served.setdefault(model, ServeModel(model, 1))


async def stats(model: str) -> list[dict[str, Any]]:
    return await served(model).stats()


async def ask(model: str, tokens: int, text: str = "go", **hints: Any) -> str:
    """`ok`, or the code of the error."""
    try:
        async with aclosing(served(model).stream(_request(text, tokens, **hints))) as chunks:
            got = [chunk async for chunk in chunks]
    except MantaError as error:
        return error.code
    return "ok" if len(got) == tokens + 1 else "cut"


def _request(text: str, tokens: int, **hints: Any) -> ChatRequest:
    return ChatRequest((ChatMessage("user", text),), max_tokens=tokens, hints=CallHints(**hints))


async def asks(model: str, calls: int, tokens: int) -> dict[str, int]:
    """Calls at once; how they ended."""
    return Counter(await asyncio.gather(*(ask(model, tokens) for _ in range(calls))))


def replicas(model: str) -> int:
    """How many run, as Serve's controller has it: asking them would wake one that sleeps."""
    states = serve.status().applications[model_app(model, 1)].deployments[DEPLOYMENT].replica_states
    return sum(count for state, count in states.items() if str(getattr(state, "value", state)) == "RUNNING")


async def until_replicas(model: str, wanted: int, seconds: float = 300) -> list[int]:
    """The numbers of running replicas that were seen one after the other, the wanted one last."""
    seen: list[int] = []
    deadline = time.monotonic() + seconds
    while seen[-1:] != [wanted] and time.monotonic() < deadline:
        count = replicas(model)
        if seen[-1:] != [count]:
            seen.append(count)
        await asyncio.sleep(0.1)
    return seen


async def pressed(model: str, callers: int, tokens: int, wanted: int) -> dict[str, Any]:
    """Callers that ask again and again until so many replicas run and each has answered; then until one is left.

    One that has begun to stream goes on meanwhile, and one leaves its stream in the middle.
    """
    ended: Counter[str] = Counter()
    enough = asyncio.Event()
    number = itertools.count()

    async def caller() -> None:
        while not enough.is_set():
            # Prompts that are alike would all go to one replica as long as it is not much busier.
            ended[await ask(model, tokens, f"go {next(number)}")] += 1

    async def leaver() -> None:
        async with aclosing(served(model).stream(_request("bye", tokens * 100))) as chunks:
            await anext(chunks)

    asking = [asyncio.create_task(caller()) for _ in range(callers)]
    up = await until_replicas(model, wanted)
    while not all(each["served"] for each in await stats(model)):
        await asyncio.sleep(0.1)
    await asyncio.gather(*(leaver() for _ in range(3)))
    long = asyncio.create_task(ask(model, tokens * 20))
    enough.set()
    await asyncio.gather(*asking)
    down = await until_replicas(model, 1)
    ended[await long] += 1
    return {"up": up, "down": down, "ended": dict(ended)}


async def watched(model: str, calls: int, tokens: int, wanted: int) -> list[int]:
    """The numbers of replicas that are seen while calls go on, which are left then."""
    asking = [asyncio.create_task(ask(model, tokens)) for _ in range(calls)]
    seen = await until_replicas(model, wanted)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return seen


async def arrivals(model: str, rate: float, calls: int, tokens: int, patience_s: float) -> dict[str, Any]:
    """Calls that come evenly, `rate` a second, whatever becomes of those before them.

    `useful`: the share of what the replica could have said in its steps that was said to callers in their time.
    """
    before = (await stats(model))[0]
    ended: Counter[str] = Counter()

    async def call() -> None:
        deadline = time.time() + patience_s
        how = await ask(model, tokens, deadline=deadline)
        ended["late" if how == "ok" and time.time() > deadline else how] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            group.create_task(call())
            await asyncio.sleep(1 / rate)
    after = (await stats(model))[0]
    room = (after["steps"] - before["steps"]) * BATCH
    return {"ended": dict(ended), "useful": ended["ok"] * tokens / room, "line": after["line"]}


async def changed(model: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    """The version's replicas after it was deployed again with other settings of its replicas."""
    settings = ModelSettings.model_validate({"backend": "sleep", **given})
    target = RunTarget(model_application(model, 1, settings, "WARNING"), model_app(model, 1), None)
    await asyncio.to_thread(serve.run_many, [target])
    return await stats(model)


async def crowd(model: str, callers: int, calls: int, tokens: int) -> dict[str, Any]:
    """Many at once from processes that know nothing of each other, in the order in which they ended."""
    actors = [Caller.remote() for _ in range(callers)]  # type: ignore[attr-defined]
    await asyncio.gather(*(actor.asks.remote(model, 1, 1) for actor in actors))
    told = await asyncio.gather(*(actor.order.remote(model, calls, tokens) for actor in actors))
    ended = [how for _, how in sorted(itertools.chain(*told))]
    return {"ended": ended, "stats": await stats(model)}


@ray.remote(num_cpus=0.01)
class Caller:
    """A process with a handle of its own, as an agent is."""

    async def asks(self, model: str, calls: int, tokens: int) -> None:
        await asks(model, calls, tokens)

    async def order(self, model: str, calls: int, tokens: int) -> list[tuple[float, str]]:
        async def one() -> tuple[float, str]:
            how = await ask(model, tokens)
            return time.time(), how

        return list(await asyncio.gather(*(one() for _ in range(calls))))


async def talks(model: str, runs: int, calls: int, words: int) -> dict[str, Any]:
    """Runs beside each other, of calls one after the other, each with all before it in its prompt.

    `prompt` tokens were sent, of these `cached` were in the replica that got them, and `known` had been sent before.
    """
    before = await stats(model)

    async def run(number: int) -> int:
        said = [ChatMessage("user", f"run{number} " + "w " * words)]
        sent = known = 0
        for call in range(calls):
            known += sent
            sent = sum(len(message.content.split()) for message in said)
            hints = CallHints(run=f"run-{number}")  # type: ignore[arg-type]
            request = ChatRequest(tuple(said), max_tokens=2, hints=hints)
            async with aclosing(served(model).stream(request)) as chunks:
                text = "".join([chunk.text async for chunk in chunks])
            said += [ChatMessage("assistant", text), ChatMessage("user", f"and {call}? " + "q " * 10)]
        return known

    known = await asyncio.gather(*(run(number) for number in range(runs)))
    after = await stats(model)
    prompt, cached = (
        sum(each[key] for each in after) - sum(each[key] for each in before)
        for key in ("prompt_tokens", "cached_tokens")
    )
    return {"prompt": prompt, "cached": cached, "known": sum(known), "served": [r["served"] for r in after]}
