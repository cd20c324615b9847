"""The line of a replica: whose turn it is, who is refused, and what is left when callers go."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.clock import ManualClock
from manta.errors import Overloaded
from manta.messages import CallHints, ChatChunk, ChatMessage, ChatRequest, Usage
from serve_app.models.pace import UNBOUNDED, LineLimits, Pace, too_late
from serve_app.models.waiting import Line
from tests.waiting import eventually

PATIENCE_S = 20


class Work:
    """An answer of two words for each request, of which the second comes when it is let go."""

    def __init__(self, line: Line, clock: ManualClock) -> None:
        self.line = line
        self.clock = clock
        self.begun: list[str] = []
        self.closed = 0
        self._gates: dict[str, asyncio.Event] = {}

    def gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        name = request.messages[0].content
        self.begun.append(name)
        try:
            yield ChatChunk("half")
            await self.gate(name).wait()
            yield ChatChunk("full", finish_reason="stop", usage=Usage(1, request.max_tokens or 2))
        finally:
            self.closed += 1

    def ask(self, name: str, max_tokens: int | None = None, **hints: Any) -> "asyncio.Task[str]":
        request = ChatRequest((ChatMessage("user", name),), max_tokens=max_tokens, hints=CallHints(**hints))

        async def answer() -> str:
            async with aclosing(self.line.answered(self.stream, request)) as chunks:
                return " ".join([chunk.text async for chunk in chunks])

        return asyncio.create_task(answer())

    async def took(self, name: str, seconds: float, **given: Any) -> None:
        """One answer that takes so long."""
        asked = self.ask(name, **given)
        await until(lambda: name in self.begun)
        await self.clock.advance(seconds)
        self.gate(name).set()
        await asked


async def until(holds: Callable[[], Any]) -> None:
    await eventually(holds, "what the line should do", PATIENCE_S)


def a_line(max_ongoing: int = 1, max_queued: int = 2, max_wait_s: float = 0.0) -> Work:
    clock = ManualClock()
    return Work(Line(LineLimits(max_ongoing, max_queued, max_wait_s), clock), clock)


async def refused(asked: "asyncio.Task[str]") -> Overloaded:
    with pytest.raises(Overloaded) as error:
        async with asyncio.timeout(PATIENCE_S):
            await asked
    return error.value


async def test_the_urgent_go_first_and_others_in_their_order():
    work = a_line(max_queued=9)
    asked = [work.ask("first")]
    await until(lambda: work.begun)
    asked += [
        work.ask(name, priority=priority) for name, priority in (("b", 1), ("a", 0), ("c", 1), ("u", -1))
    ]
    await until(lambda: work.line.stats()["waiting"] == 4)
    for name in ("first", "u", "a", "b", "c"):
        await until(lambda name=name: work.begun[-1] == name)
        work.gate(name).set()
    assert await asyncio.gather(*asked) == ["half full"] * 5
    assert work.line.load() == (0, 0)


async def test_what_is_too_much_is_refused_at_once_with_when_to_come_again():
    work = a_line()
    await work.took("known", 7)
    held = [work.ask(name) for name in "abc"]
    await until(lambda: work.line.stats()["waiting"] == 2)
    error = await refused(work.ask("d"))
    # Two in front of it, seven seconds each, and its own turn.
    assert error.retry_after_s == pytest.approx(21)
    assert error.http_status == 429
    for name in "abc":
        work.gate(name).set()
    await asyncio.gather(*held)
    assert "d" not in work.begun
    assert work.line.stats()["refused"] == 1


@pytest.mark.parametrize("where", ["at work", "in line", "in the moment of its turn"])
async def test_who_leaves_gives_up_its_place(where: str):
    work = a_line()
    first, second, third = work.ask("a"), work.ask("b"), work.ask("c")
    await until(lambda: work.line.stats()["waiting"] == 2)
    if where == "at work":
        first.cancel()
        work.gate("b").set()
    elif where == "in line":
        second.cancel()
        work.gate("a").set()
    else:
        work.gate("a").set()
        await first
        second.cancel()
    work.gate("c").set()
    assert await third == "half full"
    await asyncio.gather(first, second, return_exceptions=True)
    left = work.line.stats()
    assert [left[key] for key in ("working", "waiting", "refused", "most")] == [0, 0, 0, 3]
    assert work.closed == len(work.begun)
    assert work.line.load() == (0, 0)


async def test_what_cannot_be_in_time_is_refused_when_it_comes():
    work = a_line(max_queued=9)
    await work.took("known", 10)
    held = work.ask("a")
    await until(lambda: "a" in work.begun)
    now = work.clock.now()
    # It waits for ten seconds and then takes ten.
    assert "too late" in str(await refused(work.ask("b", deadline=now + 19)))
    waiting = work.ask("c", deadline=now + 21)
    short = work.ask("d", max_tokens=1, deadline=now + 26)
    await until(lambda: work.line.stats()["waiting"] == 2)
    for name in "acd":
        work.gate(name).set()
    assert await asyncio.gather(held, waiting, short) == ["half full"] * 3


async def test_what_has_waited_too_long_to_be_in_time_is_not_begun():
    work = a_line(max_queued=9)
    await work.took("known", 10)
    held = work.ask("a")
    await until(lambda: "a" in work.begun)
    late = work.ask("b", deadline=work.clock.now() + 21)
    good = work.ask("c")
    await until(lambda: work.line.stats()["waiting"] == 2)
    await work.clock.advance(15)
    for name in "abc":
        work.gate(name).set()
    await refused(late)
    assert await asyncio.gather(held, good) == ["half full"] * 2
    assert "b" not in work.begun


async def test_a_free_place_is_given_whatever_was_slow_before():
    work = a_line()
    await work.took("slow", 1000)
    work.gate("a").set()
    assert await work.ask("a", deadline=work.clock.now() + 1) == "half full"


async def test_a_wait_that_is_reckoned_too_long_is_refused():
    work = a_line(max_queued=9, max_wait_s=15)
    await work.took("known", 10)
    held = [work.ask("a"), work.ask("b")]
    await until(lambda: work.line.stats()["waiting"] == 1)
    error = await refused(work.ask("c"))
    assert error.retry_after_s == pytest.approx(5)
    for name in "ab":
        work.gate(name).set()
    await asyncio.gather(*held)


async def test_a_wait_that_becomes_too_long_ends():
    work = a_line(max_wait_s=0.05)
    held = work.ask("a")
    await until(lambda: "a" in work.begun)
    assert "waited for too long" in str(await refused(work.ask("b")))
    assert work.line.stats()["waiting"] == 0
    work.gate("a").set()
    await held


async def test_what_was_broken_off_counts_if_it_was_long():
    work = a_line()
    await work.took("known", 10)
    for seconds, expected in ((5, 10), (60, 20)):
        asked = work.ask(f"left {seconds}")
        await until(lambda: work.begun[-1].startswith("left"))
        await work.clock.advance(seconds)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        work.begun.append("over")
        assert work.line.stats()["answer_s"] == pytest.approx(expected)


async def test_tokens_in_flight_are_of_prompt_and_answer():
    work = a_line(max_ongoing=2)
    asked = [work.ask("x" * 400, max_tokens=50), work.ask("y" * 40, max_tokens=10)]
    # Four characters a token; "half" was said already.
    await until(lambda: work.line.load() == (2, pytest.approx(100 + 49 + 10 + 9)))
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert work.line.load() == (0, 0)


async def test_limits_can_be_changed_while_it_works():
    work = a_line(max_ongoing=1)
    asked = [work.ask(name) for name in "abc"]
    await until(lambda: work.line.stats()["waiting"] == 2)
    work.line.limits = LineLimits(3, 0)
    work.gate("a").set()
    await until(lambda: set(work.begun) == set("abc"))
    for name in "bc":
        work.gate(name).set()
    await asyncio.gather(*asked)


def test_what_differs_much_is_reckoned_with_caution():
    pace = Pace()
    for _ in range(50):
        pace = pace.after(10, 100).after(30, 100)
    assert pace.seconds == pytest.approx(20, abs=3)
    assert pace.spread == pytest.approx(10, abs=2)
    assert pace.answer_s(None) == pytest.approx(40, abs=5)
    assert pace.answer_s(50) == pytest.approx(20, abs=3)


def test_most_is_work_and_line_together():
    assert LineLimits(4, 8).most == 12
    assert LineLimits(4, -1).most == UNBOUNDED


@given(st.floats(0, 100), st.floats(0, 1000), st.integers(0, 50), st.integers(1, 50), st.floats(0, 100))
def test_reckoning_is_monotone(seconds: float, tokens: float, before: int, places: int, left: float):
    pace = Pace(seconds, tokens)
    assert pace.wait_s(before + 1, places) >= pace.wait_s(before, places) >= pace.wait_s(before, places + 1)
    assert 0 <= pace.answer_s(1) <= pace.answer_s(None) == seconds
    assert Pace(seconds, tokens, spread=1.0).answer_s(None) > seconds
    asked = ChatRequest((), max_tokens=5)
    assert not too_late(pace, 0.0, asked, None)
    if too_late(pace, 0.0, asked, left):
        assert too_late(pace, 1.0, asked, left)
