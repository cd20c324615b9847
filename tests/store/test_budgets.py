"""A call that could use more than is left is refused before it is made; what it did not use is free again."""

import asyncio

import pytest

from coordinator.store.journal import Journal
from coordinator.store.records import RunRecord
from manta.errors import BudgetExceeded
from manta.ids import StepKey
from manta.messages import Budget, CallIntent, Limit, Usage
from tests.store.support import STEP, TENANT, at_work, claimed, done, failed, intent, outcome, scope, started

RUN = StepKey("")


def asking(
    run: RunRecord, key: str, reserve: Usage, *limits: tuple[str, Budget], step: str = STEP
) -> CallIntent:
    covering = tuple(Limit(StepKey(name), budget) for name, budget in limits)
    return intent(scope(run, step=step), key, reserve=reserve, limits=covering)


async def used(journal: Journal, run: RunRecord, key: str, usage: Usage, step: str = STEP) -> None:
    await journal.begin_call(asking(run, key, Usage(), step=step))
    await journal.finish_call(outcome(scope(run, step=step), key, usage=usage))


@pytest.mark.parametrize(
    ("budget", "fits", "too_much"),
    [
        (Budget(tokens=100), Usage(60, 40), Usage(60, 41)),
        (Budget(model_calls=2), Usage(model_calls=2), Usage(model_calls=3)),
        (Budget(tool_calls=1), Usage(tool_calls=1), Usage(tool_calls=2)),
        (Budget(money=0.5), Usage(cost_micros=500_000), Usage(cost_micros=500_001)),
        (Budget(), Usage(10**9, 0, 0, 10**6), None),
        (Budget(tokens=10, tool_calls=0), Usage(10), Usage(tool_calls=1)),
    ],
)
async def test_a_reservation_has_to_fit(
    journal: Journal, budget: Budget, fits: Usage, too_much: Usage | None
):
    run = await at_work(journal)

    if too_much is not None:
        with pytest.raises(BudgetExceeded):
            await journal.begin_call(asking(run, "0", too_much, ("", budget)))
        assert await journal.calls(run.id) == []
    assert await journal.begin_call(asking(run, "0", fits, ("", budget))) is None


async def test_what_was_used_and_what_is_under_way_count_together(journal: Journal):
    run = await at_work(journal)
    budget = ("", Budget(tokens=100))
    await used(journal, run, "0", Usage(30, 10))
    await journal.begin_call(asking(run, "1", Usage(40), budget))

    with pytest.raises(BudgetExceeded, match="101 of 100 tokens"):
        await journal.begin_call(asking(run, "2", Usage(21), budget))
    assert await journal.begin_call(asking(run, "2", Usage(20), budget)) is None
    # The outcome takes the place of the reservation, whatever it comes to.
    await journal.finish_call(outcome(scope(run), "1", usage=Usage(5)))
    assert await journal.begin_call(asking(run, "3", Usage(35), budget)) is None
    with pytest.raises(BudgetExceeded):
        await journal.begin_call(asking(run, "4", Usage(1), budget))


async def test_a_call_that_used_more_than_it_reserved_leaves_less(journal: Journal):
    run = await at_work(journal)
    budget = ("", Budget(tokens=100))
    await journal.begin_call(asking(run, "0", Usage(50), budget))
    await journal.finish_call(outcome(scope(run), "0", usage=Usage(150)))

    with pytest.raises(BudgetExceeded, match="150 of 100"):
        await journal.begin_call(asking(run, "1", Usage(), budget))
    assert await journal.begin_call(asking(run, "1", Usage(), ("", Budget(tokens=150)))) is None


async def test_a_repeated_intent_reserves_once(journal: Journal):
    run = await at_work(journal)
    call = asking(run, "0", Usage(60), ("", Budget(tokens=100)))

    for _ in range(3):
        assert await journal.begin_call(call) is None
    assert await journal.begin_call(asking(run, "1", Usage(40), ("", Budget(tokens=100)))) is None


async def test_a_replayed_call_costs_nothing(journal: Journal):
    run = await at_work(journal)
    await used(journal, run, "0", Usage(100))

    replayed = await journal.begin_call(asking(run, "0", Usage(100), ("", Budget(tokens=100))))
    assert replayed is not None


@pytest.mark.parametrize("loss", ["claim", "next attempt", "end of the step"])
async def test_what_nobody_finishes_is_free_again(journal: Journal, loss: str):
    run = await at_work(journal)
    await journal.commit(run.id, 1, [started("other")])
    budget = ("", Budget(tokens=100))
    await journal.begin_call(asking(run, "0", Usage(60), budget))
    await journal.begin_call(asking(run, "0", Usage(30), budget, step="other"))
    if loss == "claim":
        run = await journal.claim(run.id, "coordinator-2")
    attempt = 2
    if loss == "end of the step":
        await journal.commit(run.id, run.epoch, [failed()])
    await journal.commit(run.id, run.epoch, [started(attempt=attempt)])

    left = 100 if loss == "claim" else 70
    call = scope(run, attempt)
    limits = (Limit(RUN, Budget(tokens=100)),)
    with pytest.raises(BudgetExceeded):
        await journal.begin_call(intent(call, "1", reserve=Usage(left + 1), limits=limits))
    assert await journal.begin_call(intent(call, "1", reserve=Usage(left), limits=limits)) is None


async def test_a_steps_budget_covers_exactly_what_lies_beneath_it(journal: Journal):
    run = await claimed(journal)
    beneath = ["a", "a[0]", "a[12]/x", "a/b", "a/b#2", "a#3", "a/b[1]/c"]
    beside = ["ab", "a_b", "b", "b/a", "A", "a0", "b[0]/a/c"]
    await journal.commit(run.id, 1, [started(key) for key in (*beneath, *beside)])
    for key in (*beneath, *beside):
        await used(journal, run, "0", Usage(10), step=key)
    last = asking(run, "1", Usage(1), ("a", Budget(tokens=70)), step="a/b")

    with pytest.raises(BudgetExceeded, match="budget of step a: 71 of 70"):
        await journal.begin_call(last)
    assert await journal.begin_call(asking(run, "1", Usage(1), ("a", Budget(tokens=71)), step="a/b")) is None


async def test_every_limit_has_to_hold(journal: Journal):
    run = await claimed(journal)
    await journal.commit(run.id, 1, [started("a"), started("a/b")])
    await used(journal, run, "0", Usage(50), step="a")
    limits = (("", Budget(tokens=100)), ("a", Budget(tokens=80)), ("a/b", Budget(tokens=40)))

    for too_much in (31, 41, 60):
        with pytest.raises(BudgetExceeded):
            await journal.begin_call(asking(run, "1", Usage(too_much), *limits, step="a/b"))
    assert await journal.begin_call(asking(run, "1", Usage(30), *limits, step="a/b")) is None


async def test_calls_that_begin_at_once_do_not_share_what_is_left(journal: Journal):
    run = await at_work(journal)
    calls = [asking(run, str(n), Usage(30), ("", Budget(tokens=100))) for n in range(10)]

    results = await asyncio.gather(*(journal.begin_call(call) for call in calls), return_exceptions=True)

    assert [type(result) for result in results].count(BudgetExceeded) == 7


async def test_the_time_of_steps_is_not_a_calls_affair(journal: Journal):
    run = await claimed(journal)
    await journal.commit(run.id, 1, [started("a"), done("a", usage=Usage(milliseconds=5000)), started()])

    assert await journal.begin_call(asking(run, "0", Usage(1), ("", Budget(seconds=1)))) is None


async def test_a_run_keeps_its_budget(journal: Journal):
    budget = Budget(tokens=10, seconds=1.5, money=0.25)
    run = await claimed(journal, budget=budget)

    assert run.budget == (await journal.get_run(TENANT, run.id)).budget == budget
    assert (await claimed(journal)).budget is None


def test_no_mark_of_a_key_comes_after_the_tilde():
    """SQLite finds a subtree between its key and the key with a tilde."""
    assert all(mark < "~" for mark in "/[]#_0123456789abcdefghijklmnopqrstuvwxyz")
