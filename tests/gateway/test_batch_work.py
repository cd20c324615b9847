"""The requests of a part: tried until the batch's window ends, and nobody waits for one that pauses."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from manta.clock import Clock, ManualClock
from manta.errors import ModelError, Unavailable
from serve_app.gateway.openai.batch_lines import Line
from serve_app.gateway.openai.batch_work import GRACE_S, MAX_PAUSE_S, PartWork, pause_s
from tests.gateway.batch_support import CHAT, Repeats, said
from tests.waiting import eventually


class Passing(ManualClock):
    """Pauses pass at once."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._now += seconds
        await asyncio.sleep(0)


def line(name: str) -> Line:
    return Line(name, {"messages": [{"role": "user", "content": name}]})


def work(model: Repeats, clock: Clock, deadline: float | None = None) -> PartWork:
    context: Any = SimpleNamespace(
        task=SimpleNamespace(scope=SimpleNamespace(deadline=deadline)), model_named=lambda name: model
    )
    return PartWork(context, CHAT, "says", clock)


@pytest.mark.parametrize(
    ("tried", "asked_for", "seconds"),
    [(1, None, 1), (3, None, 4), (7, None, 60), (5000, None, 60), (1, 90, 90), (9, 5, 60)],
)
def test_pauses_grow_to_a_cap_and_heed_what_is_asked_for(tried: int, asked_for: float | None, seconds: float):
    assert pause_s(tried, asked_for) == seconds


async def test_an_outage_of_hours_is_sat_out():
    clock = Passing()
    there_at = clock.now() + 5 * 3600

    def away(request: Any) -> None:
        if clock.now() < there_at:
            raise Unavailable("the model is away", fix="wait")

    model = Repeats(away)
    (result,) = await work(model, clock).results([line("a")])
    assert result.kind == "completed"
    assert (max(clock.pauses), sum(clock.pauses) >= 5 * 3600) == (MAX_PAUSE_S, True)


async def test_a_server_that_says_when_to_come_back_is_left_in_peace():
    clock, model = Passing(), Repeats()

    def busy(request: Any) -> None:
        model.before = None
        error = Unavailable("too much", fix="wait")
        error.retry_after_s = 300.0
        raise error

    model.before = busy
    (result,) = await work(model, clock).results([line("a")])
    assert (result.kind, clock.pauses) == ("completed", [300.0])


async def test_what_pauses_holds_no_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve_app.gateway.openai.batch_work.LINES_AT_ONCE", 1)
    clock, failing = ManualClock(), {"a"}

    def some_fail(request: Any) -> None:
        if said(request) in failing:
            raise Unavailable("not now", fix="wait")

    model = Repeats(some_fail)
    whole = asyncio.create_task(work(model, clock).results([line("a"), line("b")]))
    await eventually(lambda: "b" in map(said, model.requests) and clock.sleeping, "b while a pauses")
    failing.clear()
    await clock.advance(1)
    assert [result.kind for result in await whole] == ["completed", "completed"]
    assert (len(model.requests), model.most) == (3, 1)


async def test_the_window_ends_the_trying():
    clock = ManualClock()

    def away(request: Any) -> None:
        raise Unavailable("the model is away", fix="wait")

    (result,) = await work(Repeats(away), clock, clock.now() + GRACE_S + 0.1).results([line("a")])
    assert (result.kind, result.line["error"]["code"]) == ("expired", "batch_expired")


async def test_a_try_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve_app.gateway.openai.batch_work.LINE_S", 0.05)
    model = Repeats(lambda request: asyncio.Event().wait())
    (result,) = await work(model, ManualClock()).results([line("a")])
    assert (result.kind, result.line["response"]["body"]["error"]["code"]) == ("failed", "timeout")
    assert model.running == 0


async def test_what_does_not_pass_is_not_tried_again():
    clock = Passing()

    def broken(request: Any) -> None:
        error = ModelError("never", fix="ask another")
        error.retryable = False
        raise error

    (result,) = await work(Repeats(broken), clock).results([line("a")])
    assert (result.kind, clock.pauses) == ("failed", [])
