"""Among runs that are at work when a coordinator dies, the one that kills it is found, and no other is blamed."""

import asyncio
import random

import pytest

from coordinator.trials import GROUPS, SUSPICIOUS, WATCHED_S, Trials
from manta.clock import ManualClock
from manta.ids import RunId

MOST = 5


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def suspects(number: int) -> list[RunId]:
    return [RunId(f"r{n}") for n in range(number)]


async def test_suspects_begin_in_groups_and_the_next_one_when_the_last_does_no_harm():
    clock, begun = ManualClock(), []
    trials = Trials(clock, MOST)

    async def take_up(run: RunId) -> None:
        assert not await trials.turn(run, SUSPICIOUS)
        begun.append(run)

    for run in suspects(8):
        asyncio.ensure_future(take_up(run))  # noqa: RUF006
    await settle()
    assert len(begun) == 2
    await clock.advance(WATCHED_S / 2)
    await settle()
    assert len(begun) == 2
    # Both get something done: nobody has to wait longer.
    for run in list(begun):
        trials.harmless(run)
    await settle()
    assert len(begun) == 4
    for count in (6, 8):
        await clock.advance(WATCHED_S)
        await settle()
        assert len(begun) == count


async def test_who_gives_up_waiting_holds_up_nobody():
    clock = ManualClock()
    trials = Trials(clock, MOST)
    turns = [asyncio.ensure_future(trials.turn(run, SUSPICIOUS)) for run in suspects(5)]
    for turn in turns[:4]:
        turn.cancel()
    await settle()
    assert not await turns[4]
    trials.close()


@pytest.mark.parametrize(("deaths", "verdict"), [([6], True), ([5], False), ([6, 5], True), ([6, 6], False)])
async def test_only_one_that_stands_out_is_guilty(deaths: list[int], verdict: bool):
    clock = ManualClock()
    trials = Trials(clock, MOST)
    turns = [
        asyncio.ensure_future(trials.turn(run, seen))
        for run, seen in zip(suspects(len(deaths)), deaths, strict=True)
    ]
    await settle()
    await clock.advance(GROUPS * WATCHED_S)
    await settle()
    await clock.advance(GROUPS * WATCHED_S)
    await settle()
    assert [await turn for turn in turns] == [verdict, *[False] * (len(deaths) - 1)]


@pytest.mark.parametrize("number", [1, 2, 3, 17, 200])
@pytest.mark.parametrize("kills_after_s", [0.0, 1.0, 60.0])
async def test_the_cause_is_found_among_runs_that_get_nothing_done(number: int, kills_after_s: float):
    """The hardest case: the steps of the others take longer than all these lives."""
    chance = random.Random(number)
    seen = dict.fromkeys(suspects(number), 0)
    cause = chance.choice(list(seen))
    guilty: set[RunId] = set()
    lives = 0
    while not guilty:
        lives += 1
        begun = await _life(seen, cause, kills_after_s, guilty, chance)
        seen = {run: deaths + (run in begun) for run, deaths in seen.items()}
    assert guilty == {cause}
    assert lives <= MOST + 10 + 6 * number.bit_length()


async def _life(
    seen: dict[RunId, int], cause: RunId, kills_after_s: float, guilty: set[RunId], chance: random.Random
) -> set[RunId]:
    """One coordinator, from taking up all runs until it is killed; returns those that had begun."""
    clock = ManualClock()
    trials = Trials(clock, MOST, chance.random)
    begun: dict[RunId, float] = {}

    async def take_up(run: RunId, deaths: int) -> None:
        if deaths >= SUSPICIOUS and await trials.turn(run, deaths):
            guilty.add(run)
            return
        begun[run] = clock.now()

    jobs = [asyncio.ensure_future(take_up(run, deaths)) for run, deaths in seen.items()]
    await settle()
    while not guilty and (cause not in begun or clock.now() - begun[cause] < kills_after_s):
        await clock.advance(1.0)
        await settle()
    for job in jobs:
        job.cancel()
    trials.close()
    return set(begun)
