"""A person's answer is written once, fits what is asked, wakes the run, and is acted on once."""

import asyncio
from typing import Any

import pytest

from coordinator.store.journal import Journal
from coordinator.store.records import CallSettled, DecisionTaken, RunChange, RunRecord
from manta.clock import ManualClock
from manta.errors import Conflict, InvalidInput, NotFound, OutcomeUnknown, StaleEpoch
from manta.ids import StepKey
from tests.store.support import (
    OTHER,
    STEP,
    TENANT,
    at_work,
    claimed,
    done,
    failed,
    held,
    intent,
    note,
    outcome,
    scope,
    started,
)

UNKNOWN = {"reason": "outcome_unknown", "call": "0"}


async def asking(journal: Journal, *keys: str, parked: bool = True, **waiting: Any) -> RunRecord:
    """A run in which these steps wait."""
    run = await at_work(journal)
    changes: list[Any] = [held(key, **waiting) for key in keys or (STEP,)]
    await journal.commit(run.id, 1, [*changes, RunChange("waiting", reason="waiting")] if parked else changes)
    return run


async def answer(journal: Journal, run: RunRecord, action: Any = "approve", **more: Any) -> RunRecord:
    values: dict[str, Any] = {"step": None, "value": None, "comment": "", "by": "ann", "tenant": TENANT}
    values |= more
    return await journal.decide(
        values["tenant"], run.id, values["step"], action, values["value"], values["comment"], values["by"]
    )


async def refused(work: Any, code: str) -> None:
    with pytest.raises(Conflict) as raised:
        await work
    assert raised.value.code == code


async def test_what_a_step_waits_for_reads_back(journal: Journal, clock: ManualClock):
    run = await asking(journal)

    [step] = await journal.steps(run.id)
    assert (step.state, step.waiting) == (
        "waiting",
        {"reason": "approval", "question": "Send it?", "show": None, "editable": True},
    )
    assert (step.started_at, step.finished_at) == (clock.now(), None)


async def test_an_answer_wakes_the_run_and_is_acted_on_once(journal: Journal, clock: ManualClock):
    run = await asking(journal)
    await clock.advance(86_400)

    record = await answer(journal, run, "edit", value={"to": "bob"}, comment="but not to al \x00", by="ann")

    assert (record.status, record.reason, record.wake_at) == ("pending", None, None)
    assert [brief.id for brief in await journal.queued(0, 10)] == [run.id]
    [decision] = await journal.decisions(run.id)
    assert (decision.number, decision.step, decision.action, decision.value) == (
        1,
        STEP,
        "edit",
        {"to": "bob"},
    )
    assert (decision.comment, decision.by, decision.at) == ("but not to al \x00", "ann", clock.now())
    again = await journal.claim(run.id, "coordinator-1")
    taken = [DecisionTaken(1), done(output="sent"), note("step_decided")]
    await journal.commit(run.id, again.epoch, taken)
    assert await journal.decisions(run.id) == []
    [step] = await journal.steps(run.id)
    assert (step.state, step.output, step.waiting) == ("done", "sent", None)
    # Once more is harmless, but for the step.
    await journal.commit(run.id, again.epoch, [DecisionTaken(1)])
    with pytest.raises(Conflict):
        await journal.commit(run.id, again.epoch, [DecisionTaken(2)])


async def test_an_answer_while_the_run_is_at_work_leaves_it_there(journal: Journal):
    run = await asking(journal, parked=False)

    record = await answer(journal, run)

    assert (record.status, record.owner) == ("running", "coordinator-1")
    assert [flag.decisions for flag in await journal.flags("coordinator-1")] == [1]


async def test_an_answer_that_crosses_the_parking_is_not_lost(journal: Journal):
    run = await asking(journal, parked=False)
    await answer(journal, run)

    await journal.commit(run.id, 1, [RunChange("waiting", reason="waiting"), note("run_waiting")])

    record = await journal.get_run(TENANT, run.id)
    assert (record.status, record.owner) == ("pending", None)
    with pytest.raises(StaleEpoch):
        await journal.commit(run.id, 1, [note()])
    again = await journal.claim(run.id, "coordinator-1")
    # Once it is acted on the run may rest.
    await journal.commit(run.id, again.epoch, [DecisionTaken(1), done(), held("other"), RunChange("waiting")])
    assert (await journal.get_run(TENANT, run.id)).status == "waiting"


async def test_the_same_answer_twice_is_one_and_another_is_refused(journal: Journal):
    run = await asking(journal)
    first = await answer(journal, run, "edit", value=[1, {"a": None}])

    assert (await answer(journal, run, "edit", value=[1, {"a": None}], by="bob")).status == first.status
    await refused(answer(journal, run, "edit", value=[2]), "decided")
    await refused(answer(journal, run, "approve", step=STEP), "decided")
    assert len(await journal.decisions(run.id)) == 1

    again = await journal.claim(run.id, "coordinator-1")
    await journal.commit(run.id, again.epoch, [DecisionTaken(1), done(), RunChange("success")])
    assert (await answer(journal, run, "edit", value=[1, {"a": None}])).status == "success"
    await refused(answer(journal, run, "reject", step=STEP), "decided")


async def test_answers_at_once_come_to_one(journal: Journal):
    run = await asking(journal)

    results = await asyncio.gather(
        *(answer(journal, run, action) for _ in range(5) for action in ("approve", "reject")),
        return_exceptions=True,
    )

    assert sum(isinstance(result, Conflict) for result in results) == 5
    assert len(await journal.decisions(run.id)) == 1


@pytest.mark.parametrize(
    ("waiting", "fitting"),
    [
        ({}, {"approve", "reject", "edit"}),
        ({"editable": False}, {"approve", "reject"}),
        (UNKNOWN, {"retry", "resolve", "reject"}),
        ({"reason": "something new"}, set()),
    ],
)
async def test_only_what_answers_the_question_is_taken(journal: Journal, waiting: dict, fitting: set):
    for action in ("approve", "reject", "edit", "retry", "resolve", "dance"):
        run = await asking(journal, **waiting)
        if action in fitting:
            assert (await answer(journal, run, action)).status == "pending"
        else:
            with pytest.raises(InvalidInput):
                await answer(journal, run, action)
            assert (await journal.get_run(TENANT, run.id)).status == "waiting"


async def test_the_step_has_to_be_named_when_several_wait(journal: Journal):
    run = await asking(journal, "a", "b", "c")

    await refused(answer(journal, run), "ambiguous")
    await answer(journal, run, step=StepKey("b"))
    await refused(answer(journal, run), "ambiguous")
    await answer(journal, run, step=StepKey("a"))
    # Of the three one is left.
    await answer(journal, run, "reject")
    assert [d.step for d in await journal.decisions(run.id)] == ["b", "a", "c"]


async def test_who_does_not_wait_takes_no_answer(journal: Journal):
    run = await at_work(journal)

    await refused(answer(journal, run), "not_waiting")
    await refused(answer(journal, run, step=STEP), "not_waiting")
    await refused(answer(journal, run, step=StepKey("nowhere")), "not_waiting")
    with pytest.raises(NotFound):
        await answer(journal, run, tenant=OTHER)
    over = await asking(journal, parked=False)
    await journal.commit(over.id, 1, [failed(), RunChange("error")])
    await refused(answer(journal, over), "not_waiting")


async def test_an_answer_that_came_too_late_wakes_nobody(journal: Journal):
    """The step's time was over before its owner had seen the answer."""
    run = await asking(journal, parked=False)
    await answer(journal, run)

    await journal.commit(run.id, 1, [failed(), held("next"), RunChange("waiting")])

    assert await journal.decisions(run.id) == []
    assert (await journal.get_run(TENANT, run.id)).status == "waiting"
    await answer(journal, run)
    assert [d.step for d in await journal.decisions(run.id)] == ["next"]


async def test_an_answer_to_a_step_that_has_ended_is_dropped_with_it(journal: Journal):
    run = await asking(journal, parked=False)
    await answer(journal, run)

    await journal.commit(run.id, 1, [failed(), note("step_failed")])

    assert await journal.decisions(run.id) == []
    assert await journal.flags("coordinator-1") == []


async def test_a_step_that_waits_again_takes_an_answer_again(journal: Journal):
    run = await asking(journal, **UNKNOWN)
    await answer(journal, run, "retry")
    again = await journal.claim(run.id, "coordinator-1")
    await journal.commit(run.id, 2, [DecisionTaken(1), started(attempt=2)])
    await journal.commit(run.id, again.epoch, [held(attempt=2, **UNKNOWN)])

    await answer(journal, run, "reject")

    assert [(d.number, d.action) for d in await journal.decisions(run.id)] == [(2, "reject")]


async def unknown_call(journal: Journal) -> RunRecord:
    """A run whose step waits for somebody who knows whether its call took effect."""
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run), idempotent=False))
    run = await journal.claim(run.id, "coordinator-1")
    await journal.commit(run.id, run.epoch, [started(attempt=2)])
    with pytest.raises(OutcomeUnknown):
        await journal.begin_call(intent(scope(run, 2), idempotent=False))
    await journal.commit(run.id, run.epoch, [held(attempt=2, **UNKNOWN)])
    return run


async def test_a_call_that_took_effect_gets_its_result_from_a_person(journal: Journal):
    run = await unknown_call(journal)
    await answer(journal, run, "resolve", value={"sent": True})
    settled = CallSettled(STEP, "0", {"result": {"sent": True}})

    await journal.commit(run.id, run.epoch, [DecisionTaken(1), settled, started(attempt=3)])

    replayed = await journal.begin_call(intent(scope(run, 3), idempotent=False))
    assert replayed is not None
    assert (replayed.state, replayed.response) == ("done", {"result": {"sent": True}})
    with pytest.raises(Conflict):
        await journal.commit(run.id, run.epoch, [settled])


async def test_a_call_that_did_not_take_effect_is_made_again(journal: Journal):
    run = await unknown_call(journal)
    await answer(journal, run, "retry")

    await journal.commit(run.id, run.epoch, [DecisionTaken(1), CallSettled(STEP, "0"), started(attempt=3)])

    assert [c.call.state for c in await journal.calls(run.id)] == ["cleared"]
    with pytest.raises(Conflict):
        await journal.finish_call(outcome(scope(run, 3)))
    assert await journal.begin_call(intent(scope(run, 3), idempotent=False)) is None
    await journal.finish_call(outcome(scope(run, 3)))
    assert [(c.attempt, c.call.state) for c in await journal.calls(run.id)] == [(3, "done")]


@pytest.mark.parametrize("response", [None, {"result": 1}])
async def test_a_crash_after_the_answer_does_not_ask_again(journal: Journal, response: Any):
    run = await unknown_call(journal)
    await answer(journal, run, "retry")
    await journal.commit(run.id, run.epoch, [DecisionTaken(1), CallSettled(STEP, "0", response)])

    await journal.claim(run.id, "coordinator-2")

    [step] = await journal.steps(run.id)
    assert (step.state, step.attempt, step.waiting) == ("started", 2, None)
    await refused(answer(journal, run, "reject"), "decided")


async def test_an_unknown_call_that_is_not_there_cannot_be_settled(journal: Journal):
    run = await claimed(journal)

    with pytest.raises(Conflict):
        await journal.commit(run.id, 1, [CallSettled(STEP, "0")])
    assert await journal.calls(run.id) == []
