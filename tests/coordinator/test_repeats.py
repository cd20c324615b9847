"""The coordinator dies when a call is committed and not answered; the next one is asked the same again."""

from typing import Any

import pytest

from manta.errors import Conflict, IdempotencyConflict, StepError
from manta.ids import DEFAULT_TENANT as T
from manta.messages import Task
from tests.coordinator.functions import Start, run

ASK: dict[str, Any] = {
    "steps": [
        {"id": "first", "approval": {"question": "This?"}},
        {"id": "second", "needs": ["first"], "approval": {"question": "And that?"}},
    ]
}
BROKEN: dict[str, Any] = {"steps": [{"id": "work", "agent": "work"}]}


async def test_a_repeated_answer_leaves_the_next_question_open(start: Start):
    service, _ = await start(ASK, {})
    waiting = await run(service)
    await service.decide(T, waiting.id, None, "approve", by="ann", key="k")
    await service.close()

    successor, _ = await start(ASK, {})
    asked = await successor.wait(T, waiting.id, 30)
    assert asked.status == "waiting"
    again = await successor.decide(T, waiting.id, None, "approve", by="ann", key="k")
    assert (again.id, again.status) == (waiting.id, "waiting")
    _, steps = await successor.get(T, waiting.id)
    assert {step.key: step.state for step in steps} == {"first": "done", "second": "waiting"}
    with pytest.raises(IdempotencyConflict):
        await successor.decide(T, waiting.id, None, "reject", by="ann", key="k")
    await successor.decide(T, waiting.id, None, "approve", by="ann", key="next")
    assert (await successor.wait(T, waiting.id, 30)).status == "success"


async def test_an_answer_that_nobody_acted_on_is_acted_on_when_it_is_repeated(start: Start):
    service, _ = await start(ASK, {})
    waiting = await run(service)
    # Committed, and the coordinator dies at once.
    await service.journal.decide(T, waiting.id, None, "reject", None, "", "ann", "k")
    await service.decide(T, waiting.id, None, "reject", by="ann", key="k")
    ended = await service.wait(T, waiting.id, 30)
    assert (ended.status, ended.error["code"]) == ("error", "rejected")


async def test_a_run_that_this_request_has_resumed_is_given_as_it_is(start: Start):
    broken = True

    def work(task: Task) -> str:
        if broken:
            raise StepError("broken")
        return "whole"

    service, _ = await start(BROKEN, {"work": work})
    failed = await run(service)
    assert failed.status == "error"
    broken = False
    await service.resume(T, failed.id, None, "k")
    await service.close()

    successor, runtime = await start(BROKEN, {"work": work})
    assert (await successor.wait(T, failed.id, 30)).status == "success"
    again = await successor.resume(T, failed.id, None, "k")
    assert (again.id, again.status) == (failed.id, "success")
    assert not successor.live.drives(failed.id)
    # The first coordinator may have done it yet; the second request changed nothing.
    assert runtime.count("work") <= 1
    with pytest.raises(Conflict):
        await successor.resume(T, failed.id, None, "other")


async def test_a_resumption_is_taken_up_when_only_its_commit_was_left(start: Start):
    tries: list[Task] = []

    def work(task: Task) -> str:
        tries.append(task)
        if len(tries) == 1:
            raise StepError("broken")
        return "whole"

    service, _ = await start(BROKEN, {"work": work})
    failed = await run(service)
    await service.journal.reopen(T, failed.id, key="k")
    assert (await service.resume(T, failed.id, None, "k")).status == "pending"
    # Also while it is at work, or done.
    await service.resume(T, failed.id, None, "k")
    assert (await service.wait(T, failed.id, 30)).status == "success"
    await service.resume(T, failed.id, None, "k")
    assert len(tries) == 2
