"""What the engine made while a piece of an answer was under way goes along with the next one."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from manta.config import ModelSettings
from serve_app.backends.torch_backend import _burst
from serve_app.engine.engine import Engine
from serve_app.engine.types import EngineOutput
from tests.backends.torch_support import Parrot, asking, parrot_backend

TEMPLATE = "{% for message in messages %}<s>{{ message.content }}</s>{% endfor %}"


def output(number: int, *, last: bool = False) -> EngineOutput:
    return EngineOutput("r", f"{number} ", (number,), "length" if last else None, 1, number, 0)


async def test_what_is_there_goes_along_and_the_end_waits_for_nobody() -> None:
    outputs: asyncio.Queue[EngineOutput] = asyncio.Queue()
    for number in range(3):
        outputs.put_nowait(output(number))
    past, far = 0.0, asyncio.get_running_loop().time() + 3600
    assert [one.token_ids for one in await _burst(outputs, past)] == [(0,), (1,), (2,)]
    outputs.put_nowait(output(3))
    outputs.put_nowait(output(4, last=True))
    assert [one.token_ids for one in await _burst(outputs, far)] == [(3,), (4,)]


def held_back(parrot: Parrot) -> threading.Semaphore:
    """Each of its steps but the first waits for a release."""
    may_go_on, forward = threading.Semaphore(1), parrot.forward

    def in_step(*arguments: Any) -> torch.Tensor:
        may_go_on.acquire(timeout=60)
        return forward(*arguments)

    parrot.forward = in_step  # type: ignore[method-assign]
    return may_go_on


async def pieces(folder: Path, interval_s: float, ahead: int) -> list[str]:
    """An answer as it is told when the engine makes a token for each piece that is taken, and then `ahead` more."""
    async with parrot_backend(folder, TEMPLATE) as (backend, parrot):
        backend._settings = ModelSettings(stream_interval_s=interval_s)
        parrot.says = "one two three four five six seven"
        may_go_on = held_back(parrot)
        told = []
        async for chunk in backend.stream(asking("count")):
            told.append(chunk.text)
            may_go_on.release(1 + ahead)
        return told


async def test_a_long_interval_gathers_the_answer_behind_its_first_token(tmp_path: Path) -> None:
    at_once, gathered = await pieces(tmp_path, 0.0, 0), await pieces(tmp_path, 3600.0, 1000)
    assert "".join(at_once) == "".join(gathered) == "one two three four five six seven"
    # The first token, then all the rest.
    assert len([piece for piece in gathered if piece]) == 2 < len([piece for piece in at_once if piece])
    assert "one two three".startswith(gathered[0])


async def test_many_answers_share_what_a_replica_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parrot_backend(tmp_path, TEMPLATE) as (backend, _):
        for answers, interval_s in ((0, 0.05), (5, 0.05), (32, 0.32), (500, 1.0)):
            backend._answering = answers
            assert backend._interval_s() == interval_s
        backend._settings = ModelSettings(stream_interval_s=0)
        assert backend._interval_s() == 0
        backend._settings = ModelSettings()
        monkeypatch.setattr(Engine, "device", "cuda:0")
        backend._answering = 100
        assert backend._interval_s() == 0.1


async def test_requests_that_wait_for_their_first_token_are_no_answers_yet(tmp_path: Path) -> None:
    async with parrot_backend(tmp_path, TEMPLATE) as (backend, parrot):
        parrot.says = "one two three four five six seven"
        may_go_on = held_back(parrot)
        # The engine takes one at a time.
        first, second = backend.stream(asking("count")), backend.stream(asking("count"))
        await anext(first)
        waiting = asyncio.ensure_future(anext(second))
        await asyncio.sleep(0)
        assert backend._answering == 1
        may_go_on.release(1000)
        assert [chunk async for chunk in first][-1].finish_reason == "stop"
        await waiting
        assert backend._answering == 1
        await second.aclose()
        assert backend._answering == 0
