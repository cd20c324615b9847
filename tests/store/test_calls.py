"""A call that is done is replayed, one in flight at a crash is unknown, and a zombie records nothing."""

import pytest

from coordinator.store.journal import Journal
from coordinator.store.records import StepCall
from manta.errors import Conflict, OutcomeUnknown, StaleEpoch, ToolError, Unavailable
from manta.messages import RecordedCall, Usage
from tests.store.support import STEP, at_work, claimed, done, intent, outcome, scope, started

BUSY = Unavailable("later").to_json()
WRONG = ToolError("no such city").to_json()


async def resumed(journal: Journal, run, attempt: int = 2):
    """The run as the next coordinator has it after a crash, its step started again."""
    again = await journal.claim(run.id, "coordinator-2")
    await journal.commit(run.id, again.epoch, [started(attempt=attempt)])
    return again


async def test_a_finished_call_is_replayed(journal: Journal):
    run = await at_work(journal)

    assert await journal.begin_call(intent(scope(run))) is None
    await journal.finish_call(outcome(scope(run)))
    again = await resumed(journal, run)

    expected = RecordedCall("0", "tool", "search", "h", "done", {"found": 3}, None, Usage(10, 5, 2, 0, 1))
    assert await journal.begin_call(intent(scope(again, 2))) == expected
    assert await journal.calls(run.id) == [StepCall(STEP, 1, expected)]


async def test_a_call_in_flight_at_a_crash_is_unknown_and_begun_again(journal: Journal):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run)))
    again = await resumed(journal, run)

    assert [c.call.state for c in await journal.calls(run.id)] == ["unknown"]
    assert await journal.begin_call(intent(scope(again, 2))) is None
    assert [(c.attempt, c.call.state) for c in await journal.calls(run.id)] == [(2, "intent")]
    await journal.finish_call(outcome(scope(again, 2)))
    assert await journal.usage(run.id) == Usage(10, 5, 2, 0, 1)


async def test_a_call_in_flight_is_unknown_from_the_claim_on(journal: Journal):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run)))
    await journal.claim(run.id, "coordinator-2")

    assert [c.call.state for c in await journal.calls(run.id)] == ["unknown"]


async def test_a_call_of_an_older_attempt_is_unknown_too(journal: Journal):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run)))
    await journal.commit(run.id, 1, [started(attempt=2)])

    assert [c.call.state for c in await journal.calls(run.id)] == ["unknown"]
    assert await journal.begin_call(intent(scope(run, 2))) is None


@pytest.mark.parametrize("crash", ["claim", "attempt"])
async def test_what_must_not_be_repeated_is_not(journal: Journal, crash: str):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run), idempotent=False))
    if crash == "claim":
        run = await resumed(journal, run)
    else:
        await journal.commit(run.id, 1, [started(attempt=2)])

    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            await journal.begin_call(intent(scope(run, 2), idempotent=False))
    # Nor by a newer tool that calls itself repeatable.
    with pytest.raises(OutcomeUnknown):
        await journal.begin_call(intent(scope(run, 2)))
    assert [c.call.state for c in await journal.calls(run.id)] == ["unknown"]


async def test_what_must_not_be_repeated_is_replayed_when_done(journal: Journal):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run), idempotent=False))
    await journal.finish_call(outcome(scope(run), response=None, error=BUSY))
    again = await resumed(journal, run)

    replayed = await journal.begin_call(intent(scope(again, 2), idempotent=False))
    assert replayed is not None
    assert replayed.error == BUSY


async def test_the_first_outcome_stays(journal: Journal):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run)))
    await journal.finish_call(outcome(scope(run), response={"n": 1}))
    await journal.finish_call(outcome(scope(run), response={"n": 2}))

    assert [c.call.response for c in await journal.calls(run.id)] == [{"n": 1}]
    assert await journal.usage(run.id) == Usage(10, 5, 2, 0, 1)


async def test_an_intent_may_be_sent_twice_by_the_same_attempt(journal: Journal):
    run = await at_work(journal)

    assert await journal.begin_call(intent(scope(run), idempotent=False)) is None
    assert await journal.begin_call(intent(scope(run), idempotent=False)) is None
    assert len(await journal.calls(run.id)) == 1


async def test_an_error_that_will_not_pass_is_replayed(journal: Journal):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run)))
    await journal.finish_call(outcome(scope(run), response=None, error=WRONG))
    await journal.commit(run.id, 1, [started(attempt=2)])

    replayed = await journal.begin_call(intent(scope(run, 2)))
    assert replayed is not None
    assert (replayed.response, replayed.error) == (None, WRONG)


async def test_a_passing_error_is_tried_again_by_the_next_attempt(journal: Journal):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run)))
    await journal.finish_call(outcome(scope(run), response=None, error=BUSY))

    same_attempt = await journal.begin_call(intent(scope(run)))
    assert same_attempt is not None
    assert same_attempt.error == BUSY
    await journal.commit(run.id, 1, [started(attempt=2)])
    assert await journal.begin_call(intent(scope(run, 2))) is None
    await journal.finish_call(outcome(scope(run, 2)))
    # Both tries were paid for.
    assert await journal.usage(run.id) == Usage(20, 10, 4, 0, 2)


async def test_only_the_attempt_at_work_records(journal: Journal):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run)))
    await journal.commit(run.id, 1, [started(attempt=2)])

    for late in (
        journal.begin_call(intent(scope(run, 1), "1")),
        journal.finish_call(outcome(scope(run, 1))),
        journal.begin_call(intent(scope(run, 3))),
        journal.begin_call(intent(scope(run, 2, step="other"))),
    ):
        with pytest.raises(StaleEpoch):
            await late
    await journal.commit(run.id, 1, [done(attempt=2)])
    with pytest.raises(StaleEpoch):
        await journal.begin_call(intent(scope(run, 2)))
    assert await journal.usage(run.id) == Usage()


async def test_an_outcome_needs_an_intent(journal: Journal):
    run = await at_work(journal)

    with pytest.raises(Conflict):
        await journal.finish_call(outcome(scope(run)))


async def test_calls_of_steps_and_runs_do_not_mix(journal: Journal):
    run, other = await at_work(journal), await at_work(journal)
    await journal.commit(run.id, 1, [started("write")])
    for where in (scope(run), scope(run, step="write"), scope(other)):
        assert await journal.begin_call(intent(where)) is None
    await journal.finish_call(outcome(scope(run, step="write"), usage=Usage(1)))

    assert [(c.step, c.call.state) for c in await journal.calls(run.id)] == [
        (STEP, "intent"),
        ("write", "done"),
    ]
    assert (await journal.usage(run.id), await journal.usage(other.id)) == (Usage(1), Usage())
    assert await journal.usage((await claimed(journal)).id) == Usage()
