"""What watchers are told goes to the coordinator that sent the task: the first word at once, the rest gathered."""

import asyncio
from collections.abc import Sequence
from typing import Any

from agents.actor import COORDINATOR, TOKEN_INTERVAL_S, Coordinators, Relay
from agents.recording import CallDone
from manta.errors import CoordinatorUnavailable
from manta.events import Event
from manta.messages import CallScope, Task, Usage


class Told:
    """A coordinator that notes what it is told."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, str | None, str]]] = []
        self.away = False

    def tell(self, method: str, events: Sequence[Event]) -> None:
        assert method == "pass_on"
        self.batches.append([(event.type, event.step, event.data.get("text", "")) for event in events])

    async def call(self, method: str, events: Sequence[Event]) -> None:
        if self.away:
            raise CoordinatorUnavailable("it is away")
        self.tell(method, events)


class Several(Coordinators):
    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, Told] = {}

    def link(self, task: Task) -> Any:
        return self.told.setdefault(task.coordinator or COORDINATOR, Told())


def a_task(step: str, coordinator: str = "") -> Task:
    return Task(CallScope("run", step), "agent", {}, coordinator=coordinator)  # type: ignore[arg-type]


async def test_the_first_word_goes_at_once_and_the_rest_together():
    several = Several()
    relay = Relay(several, lambda: 1.0)
    for word in ("one ", "two ", "three"):
        relay.token(a_task("s"), word)
    told = several.told[COORDINATOR].batches
    assert told == [[("token", "s", "one ")]]
    async with asyncio.timeout(100 * TOKEN_INTERVAL_S):
        while len(told) < 2:
            await asyncio.sleep(TOKEN_INTERVAL_S / 10)
    assert told[1] == [("token", "s", "two three")]


async def test_before_a_step_is_done_its_last_words_are_out():
    several = Several()
    relay = Relay(several, lambda: 1.0)
    for word in ("one ", "two"):
        relay.token(a_task("s"), word)
    relay.call_done(a_task("s"), CallDone("model", "m", "k", Usage(), False))
    await relay.flush(a_task("s"))
    assert several.told[COORDINATOR].batches[1:] == [[("token", "s", "two"), ("call_done", "s", "")]]
    await relay.flush(a_task("s"))
    assert len(several.told[COORDINATOR].batches) == 2


async def test_each_coordinator_hears_of_its_own_tasks_and_one_that_is_away_stops_nobody():
    several = Several()
    relay = Relay(several, lambda: 1.0)
    for name in ("a", "b"):
        relay.token(a_task("s", name), "first")
        relay.token(a_task("s", name), f"for {name}")
    several.told["a"].away = True
    await relay.flush(a_task("s", "b"))
    assert several.told["b"].batches[-1] == [("token", "s", "for b")]
    # Its words are lost, as they may be; the step is not.
    await relay.flush(a_task("s", "a"))
    assert several.told["a"].batches == [[("token", "s", "first")]]


def test_a_coordinator_is_found_by_the_name_in_the_task():
    coordinators = Coordinators()
    one, other = a_task("s"), a_task("s", "manta-coordinator-1")
    assert coordinators.link(one) is coordinators.link(one)
    assert coordinators.call_log(one) is coordinators.call_log(one)
    assert coordinators.link(one) is not coordinators.link(other)
    assert coordinators.call_log(one) is not coordinators.call_log(other)
