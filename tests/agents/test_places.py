"""Places: never too many, in the right order, none lost when waits are cancelled."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agents.places import HeldPlace, Places

PRIORITIES = st.integers(-2, 2)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), PRIORITIES),
        st.tuples(st.just("release"), st.integers(0, 30)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
    ),
    max_size=40,
)


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Takers:
    """Tasks that want a place, in the order in which they came."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.tasks: list[asyncio.Task[HeldPlace]] = []
        self.held: dict[int, HeldPlace] = {}

    def come(self, priority: int) -> int:
        number = len(self.tasks)
        self.tasks.append(asyncio.create_task(self._take(number, priority)))
        return number

    async def _take(self, number: int, priority: int) -> HeldPlace:
        held = self.held[number] = await self.places.take(priority)
        return held

    def release(self, pick: int) -> None:
        if self.held:
            number = sorted(self.held)[pick % len(self.held)]
            self.held.pop(number).release()

    def waiting(self) -> list[int]:
        return [n for n, task in enumerate(self.tasks) if not task.done()]


@given(st.integers(1, 3), ACTIONS)
def test_places_go_by_priority_then_arrival(size: int, actions: list[tuple[str, int]]):
    async def scenario() -> None:
        takers = Takers(Places(size))
        queue: list[tuple[int, int]] = []
        holders: set[int] = set()
        for action, value in actions:
            if action == "take":
                queue.append((value, takers.come(value)))
            elif action == "release":
                takers.release(value)
            elif queue:
                gone = queue.pop(value % len(queue))
                takers.tasks[gone[1]].cancel()
            holders &= set(takers.held)
            queue.sort()
            while queue and len(holders) < size:
                holders.add(queue.pop(0)[1])
            await turns()
            assert set(takers.held) == holders
            assert set(takers.waiting()) == {number for _, number in queue}
        await stop(takers)

    asyncio.run(scenario())


@given(st.integers(1, 3), ACTIONS, st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_none_is_lost_however_cancels_and_releases_meet(size: int, actions: Any, pauses: list[int]):
    async def scenario() -> None:
        places = Places(size)
        takers = Takers(places)
        for (action, value), pause in zip(actions, pauses, strict=False):
            if action == "take":
                takers.come(value)
            elif action == "release":
                takers.release(value)
            elif takers.tasks:
                takers.tasks[value % len(takers.tasks)].cancel()
            assert len(takers.held) <= size
            await turns(pause)
        while takers.waiting() or takers.held:
            await turns()
            assert len(takers.held) <= size
            # One that was cancelled last may only now have gone.
            assert takers.held or not takers.waiting(), "somebody waits although a place is free"
            takers.release(0)
            await turns()
        free = [places.try_take() for _ in range(size + 1)]
        assert [place is not None for place in free] == [True] * size + [False]

    asyncio.run(scenario())


async def stop(takers: Takers) -> None:
    for task in takers.tasks:
        task.cancel()
    await asyncio.gather(*takers.tasks, return_exceptions=True)


async def test_a_place_is_given_back_once_however_often_it_is_released():
    places = Places(1)
    held = places.try_take()
    assert held is not None
    held.release()
    held.release()
    with await places.take():
        assert places.try_take() is None
    assert places.try_take() is not None
