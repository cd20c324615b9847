"""The whole gateway against a bare Serve ingress that asks the same model's replicas, in turn, in one run.

    python -m benchmarks.gateway --json out/gateway.json

The gateway has a key to check, limits and use to count; the peer (`benchmarks.bare_serve`) has nothing. Both are
behind one Serve proxy and ask the same sleeping replica. Rows `gateway`: a whole answer that is not streamed;
`gateway first text` and `gateway stream`: of a streamed one; each for one client that asks one request after the
other. `gateway throughput`: streamed answers a second of `--clients` that never rest. Rows with `idle model` are
the same with a model that takes no time, so that nothing but the way through is left.
"""

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import workspace
from benchmarks.harness import Row, Side, Target, compare, in_turn, show, write
from benchmarks.lean_load import Order
from benchmarks.lean_process import Heard, hear
from benchmarks.machine import describe

OURS = "manta"
BARE = "bare-serve"
STEPS, IDLE = "stepping", "idle"
"""The models: one takes its time, one none."""
PACKAGES = ("ray", "fastapi", "starlette", "uvicorn")
AT_MOST = 1.2
"""Times what the bare ingress takes."""
WARM_UP = 30
PROMPT = "Name the tide that turns at noon, and say in a few words why it does."


@dataclass(frozen=True, slots=True)
class Load:
    """`requests` of each latency figure, one after the other; `clients` without rest for `seconds`."""

    tokens: int
    requests: int
    clients: int
    seconds: float


class Subject:
    """One of the two. `order`: a streamed request of one client. `cpu`: processor time so far, by process."""

    def __init__(self, order: Order, load: Load, cpu: Callable[[], Mapping[str, float]]) -> None:
        self._streamed = order
        self._cpu = cpu
        plain = {name: value for name, value in order.body.items() if not name.startswith("stream")}
        self._whole = replace(order, body=plain)
        self._load = load
        self._firsts: list[float] = []
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._answered = 0

    async def warm_up(self) -> None:
        for order in (self._whole, self._streamed):
            await self._hear(replace(order, requests=WARM_UP, clients=2))

    async def whole(self) -> float:
        """Median milliseconds."""
        heard = await self._hear(replace(self._whole, requests=self._load.requests))
        return heard.median_whole() * 1000

    async def stream(self) -> float:
        """Median milliseconds to the end; `first` then gives those to the first text of the same answers."""
        heard = await self._hear(replace(self._streamed, requests=self._load.requests))
        self._firsts.append(heard.median_first() * 1000)
        return heard.median_whole() * 1000

    def take_firsts(self) -> list[float]:
        firsts, self._firsts = self._firsts, []
        return firsts

    async def throughput(self) -> float:
        """Answers a second."""
        order = replace(self._streamed, clients=self._load.clients, seconds=self._load.seconds)
        before = self._cpu()
        heard = await self._hear(order)
        for name, used in {**self._cpu(), "the client": heard.end.cpu_s}.items():
            self._spent[name] += used - before.get(name, 0.0)
        self._answered += heard.end.asked
        return heard.rate

    def costs_us(self) -> dict[str, int]:
        """Microseconds of processor time for an answer under full load, by what the processes are."""
        each = {name: round(used / self._answered * 1e6) for name, used in self._spent.items()}
        return {name: used for name, used in sorted(each.items(), key=lambda item: -item[1]) if used >= 10}

    async def _hear(self, order: Order) -> Heard:
        heard = await hear(order)
        if heard.faults:
            raise RuntimeError(f"{order.path}: {len(heard.faults)} answers failed: {heard.faults[0]}")
        return heard


async def measure(subjects: Mapping[str, Subject], rounds: int, prefix: str = "gateway") -> list[Row]:
    """Medians of the rounds, the sides in turn."""
    for subject in subjects.values():
        await subject.warm_up()
    whole = await in_turn({name: subject.whole for name, subject in subjects.items()}, rounds)
    stream = await in_turn({name: subject.stream for name, subject in subjects.items()}, rounds)
    firsts = {name: subject.take_firsts() for name, subject in subjects.items()}
    rates: dict[str, Side] = {name: subject.throughput for name, subject in subjects.items()}
    throughput = await in_turn(rates, rounds)
    return [
        *compare(prefix, "ms", whole, OURS, better="less"),
        *compare(f"{prefix} first text", "ms", firsts, OURS, better="less"),
        *compare(f"{prefix} stream", "ms", stream, OURS, better="less"),
        *compare(f"{prefix} throughput", "answers/s", throughput, OURS),
    ]


def targets(rows: Sequence[Row]) -> list[Target]:
    """At most 1.2 times the bare ingress's time, or at least its throughput divided by that."""
    least = round(1 / AT_MOST, 3)
    return [Target(each.case, "of bare-serve", each.ratio, "at_least", least) for each in rows]


def added_ms(rows: Sequence[Row]) -> dict[str, float]:
    """What the gateway adds to a request, by case."""
    return {r.case: round(r.ours - r.peer, 2) for r in rows if r.unit == "ms"}


def order(url: str, path: str, model: str, tokens: int, key: str = "") -> Order:
    """A streamed request of `tokens` tokens; `path` is what stands before `/v1`."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Order(url, f"{path}/v1/chat/completions", body, key)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    with workspace.make("benchmarks.gateway", options.folder) as space:
        machine = describe(space.folder, PACKAGES)
        load = Load(options.tokens, options.requests, options.clients, options.seconds)
        rows, costs = _measure(space.home, load, options)
    reached = targets(rows)
    show("Gateway", rows, reached)
    print(f"The gateway adds, in milliseconds: {added_ms(rows)}")
    print(f"Microseconds of processor time for an answer under full load: {costs}")
    if options.json is not None:
        details = {**asdict(load), "step_s": options.step_s, "added_ms": added_ms(rows), "cpu_us": costs}
        write(options.json, machine, rows, reached, details)
    return 0


def _measure(home: Path, load: Load, options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    # Ray reads its environment when it is imported, and that is made by the workspace.
    from ray import serve

    from benchmarks.bare_serve import BARE_APP, PREFIX, bare_application
    from benchmarks.local_ray import cpu_seconds
    from benchmarks.sleeping_platform import running

    models = {STEPS: _settings(load, options.step_s), IDLE: _settings(load, (0.0, 0.0))}
    rows: list[Row] = []
    costs = {}
    with running(home, models) as platform:
        serve.run(bare_application(platform.apps), name=BARE_APP, route_prefix=PREFIX)
        for model, case in ((STEPS, "gateway"), (IDLE, "gateway, idle model")):
            subjects = {
                OURS: Subject(order(platform.url, "", model, load.tokens, platform.key), load, cpu_seconds),
                BARE: Subject(order(platform.url, PREFIX, model, load.tokens), load, cpu_seconds),
            }
            found = asyncio.run(measure(subjects, options.rounds, case))
            for each in found:
                print(f"  {each.case}: {each.ours:g} {each.unit}, bare {each.peer:g}", flush=True)
            rows += found
            costs[case] = {name: subject.costs_us() for name, subject in subjects.items()}
    return rows, costs


def _settings(load: Load, step_s: tuple[float, float]) -> dict[str, Any]:
    """Of a model that takes every request at once."""
    places = 2 * load.clients
    replicas = {"max_ongoing": places, "target_ongoing": places, "num_cpus": 0.05}
    return {"step_s": step_s, "max_batch": places, "replicas": replicas}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--json", type=Path, help="write the result here")
    add("--rounds", type=int, default=3, help="measurements of each side")
    add("--requests", type=int, default=100, help="of each latency figure")
    add("--clients", type=int, default=32, help="of the throughput")
    add("--seconds", type=float, default=8.0, help="of each throughput figure")
    add("--tokens", type=int, default=16, help="of an answer")
    add(
        "--step-s",
        type=float,
        nargs=2,
        default=(0.018, 0.0),
        metavar=("CONSTANT", "EACH"),
        help="of the model: seconds of a token, and more of them for each sequence beside",
    )
    add("--folder", type=Path, default=workspace.FOLDER, help="a folder on a real disk")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
