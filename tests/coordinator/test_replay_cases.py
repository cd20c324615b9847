"""Replays of runs that branched, waited, failed, were cut off or forked, and of journals that cannot be read."""

import asyncio
import os
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from agents.scripted import ScriptedModel, ScriptedStep
from coordinator.forks import Fork
from coordinator.service import Submission
from coordinator.store.read_only import reading
from manta.config import Settings
from manta.errors import Conflict, NotFound, StorageUnavailable
from manta.ids import DEFAULT_TENANT as T
from manta.ids import RunId, StepKey, ThreadId
from manta.messages import Budget
from tests.coordinator.replay_support import Bench, an_agent

ANSWER = ScriptedStep(text="so it is")
SHOUT = "tests.coordinator.replay_agents:shout"


def answers(count: int) -> ScriptedModel:
    return ScriptedModel([ANSWER] * count)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_branches_loops_skips_and_subgraphs(tmp_path):
    inner = {
        "name": "inner",
        "steps": [
            {
                "id": "draft",
                "agent": "asker",
                "input": {"topic": "${input.t} ${iteration}"},
                "repeat": {"until": "${iteration == `3`}", "max": 3},
            },
            {"id": "bad", "agent": "failing", "on_error": "skip", "needs": ["draft"]},
        ],
        "output": "${steps.draft.text}",
    }
    graph = {
        "steps": [
            {"id": "pick", "route": {"choose": "${input.kind}", "branches": {"a": ["one"], "b": ["two"]}}},
            {"id": "one", "graph": inner, "for_each": "${input.topics}", "input": {"t": "${item}"}},
            {"id": "two", "call": SHOUT, "input": {"text": "no"}},
            {"id": "maybe", "call": SHOUT, "input": {"text": "x"}, "when": "${input.missing}"},
            {"id": "end", "call": SHOUT, "input": {"text": "${steps.one[1]}"}, "needs": ["maybe", "two"]},
        ]
    }  # fmt: skip
    bench = Bench(tmp_path, graph, {"asker": an_agent("Asker"), "failing": an_agent("Failing")})
    run = await bench.record({"kind": "a", "topics": ["x", "y"]}, answers(8))
    recording = bench.recording(run)
    assert (recording.run.status, recording.run.output) == ("success", "SO IT IS")
    replayed = await bench.replay(run)
    assert (replayed.mismatch, replayed.calls, replayed.output_equal) == (None, 8, True)


APPROVAL = {
    "steps": [
        {"id": "draft", "agent": "asker", "input": {"topic": "x"}},
        {"id": "check", "approval": {"question": "Good?", "show": "${steps.draft.text}"}},
        {"id": "end", "call": SHOUT, "input": {"text": "${steps.check.value}"}},
    ]
}


async def decided(bench: Bench, action: Any, value: Any = None) -> RunId:
    service = await bench.open(answers(1))
    run = RunId((await service.submit(Submission("g", {}, T))).id)
    assert (await service.wait(T, run, 20)).status == "waiting"
    await service.decide(T, run, None, action, value, "a word", "me")

    async def over() -> bool:
        return (await service.wait(T, run, 20)).status in ("success", "error")

    await until(over)
    await bench.close()
    return run


async def test_a_persons_answers_come_from_the_record(tmp_path):
    bench = Bench(tmp_path, APPROVAL, {"asker": an_agent("Asker")})
    edited = await decided(bench, "edit", "better")
    assert bench.recording(edited).run.output == "BETTER"
    assert (await bench.replay(edited)).output_equal is True
    approved = await decided(bench, "approve")
    assert (await bench.replay(approved)).output_equal is True
    rejected = await decided(bench, "reject")
    assert bench.recording(rejected).run.status == "error"
    replayed = await bench.replay(rejected)
    assert (replayed.mismatch, replayed.steps, replayed.output_equal) == (None, 2, None)


async def test_a_run_that_waits_is_replayed_to_where_it_waits(tmp_path):
    bench = Bench(tmp_path, APPROVAL, {"asker": an_agent("Asker")})
    run = await bench.record({}, answers(1))
    assert bench.recording(run).run.status == "waiting"
    replayed = await bench.replay(run)
    assert (replayed.mismatch, replayed.calls, replayed.stopped_at) == (None, 1, ("check",))


async def test_what_a_person_is_shown_is_compared(tmp_path):
    bench = Bench(tmp_path, APPROVAL, {"asker": an_agent("Asker")})
    run = await decided(bench, "approve")
    changed = {**APPROVAL, "steps": [dict(step) for step in APPROVAL["steps"]]}
    changed["steps"][1] = {"id": "check", "approval": {"question": "Fine?", "show": "${steps.draft.text}"}}
    current = Bench(tmp_path, changed, {"asker": an_agent("Asker")})
    found = (await current.replay_present_graph(run)).mismatch
    assert found is not None
    assert (found.step, found.cause) == ("check", "what the person is asked differs")


async def test_a_changed_graph_is_found_by_its_inputs_and_steps(tmp_path):
    graph = {
        "steps": [
            {"id": "one", "call": SHOUT, "input": {"text": "a"}},
            {"id": "two", "call": SHOUT, "input": {"text": "${steps.one}b"}},
        ]
    }
    run = await Bench(tmp_path, graph, {}).record({})

    async def with_steps(*steps: dict[str, Any]) -> Any:
        return (await Bench(tmp_path, {"steps": list(steps)}, {}).replay_present_graph(run)).mismatch

    one, two = graph["steps"]
    assert await with_steps(one, two) is None
    changed = await with_steps(one, {**two, "input": {"text": "${steps.one}c"}})
    assert (changed.step, changed.cause) == ("two", "its input differs")
    more = await with_steps(one, two, {"id": "three", "call": SHOUT, "input": {"text": "x"}})
    assert (more.step, more.cause) == ("three", "it is not in the record")
    fewer = await with_steps({**two, "id": "two", "input": {"text": "Ab"}})
    assert (fewer.step, fewer.cause) == ("one", "the recorded step no longer runs")
    skipped = await with_steps({**one, "when": "${input.no}"}, two)
    assert (skipped.step, skipped.cause) == ("one", "it is skipped now, and was done")
    output = await Bench(tmp_path, {**graph, "output": "${steps.one}"}, {}).replay_present_graph(run)
    assert output.mismatch is not None
    assert (output.mismatch.step, output.mismatch.cause) == (None, "its output differs")


async def test_siblings_that_were_stopped_with_a_failed_one(tmp_path):
    gate = asyncio.Event()
    slow = ScriptedStep(expect="slow", text="one two", gate=gate)
    model = ScriptedModel([slow, ScriptedStep("quick", "x"), ScriptedStep("before", "y")], ordered=False)
    graph = {
        "steps": [
            {"id": "slow", "agent": "asker", "input": {"topic": "slow"}},
            {"id": "quick", "agent": "asker", "input": {"topic": "quick"}},
            {"id": "fails", "agent": "failing", "needs": ["quick"]},
        ]
    }
    bench = Bench(tmp_path, graph, {"asker": an_agent("Asker"), "failing": an_agent("Failing")})
    run = await bench.record({}, model)
    assert bench.recording(run).steps[StepKey("slow")].record.error["code"] == "cancelled"
    replayed = await bench.replay(run)
    assert (replayed.mismatch, replayed.calls) == (None, 2)


async def test_what_was_done_before_a_failure_is_replayed_before_it(tmp_path):
    gate = asyncio.Event()
    model = ScriptedModel(
        [ScriptedStep("before", "one two", gate=gate), ScriptedStep("quick", "x")], ordered=False
    )
    inner = {
        "name": "inner",
        "steps": [
            {"id": "fails", "agent": "failing"},
            {"id": "quick", "agent": "asker", "input": {"topic": "quick"}},
        ],
    }
    graph = {"steps": [{"id": "sub", "graph": inner, "on_error": "skip"}], "output": "over"}
    bench = Bench(tmp_path, graph, {"asker": an_agent("Asker"), "failing": an_agent("Failing")})
    service = await bench.open(model)
    run = RunId((await service.submit(Submission("g", {}, T))).id)

    async def quick_is_done() -> bool:
        _, steps = await service.get(T, run)
        return any(step.key == "sub/quick" and step.state == "done" for step in steps)

    await until(quick_is_done)
    gate.set()
    assert (await service.wait(T, run, 20)).status == "success"
    await bench.close()
    replayed = await bench.replay(run)
    assert (replayed.mismatch, replayed.calls, replayed.output_equal) == (None, 2, True)


async def test_a_cancelled_run_is_replayed_as_far_as_it_came(tmp_path):
    gate = asyncio.Event()
    graph = {
        "steps": [
            {"id": "first", "agent": "asker", "input": {"topic": "x"}},
            {"id": "second", "agent": "asker", "needs": ["first"], "input": {"topic": "y"}},
        ]
    }
    bench = Bench(tmp_path, graph, {"asker": an_agent("Asker")})
    model = ScriptedModel([ANSWER, ScriptedStep(text="one two", gate=gate)])
    service = await bench.open(model)
    run = RunId((await service.submit(Submission("g", {}, T))).id)

    async def asked_twice() -> bool:
        return len(model.requests) == 2

    await until(asked_twice)
    await service.cancel(T, run)
    assert (await service.wait(T, run, 20)).status == "interrupted"
    await bench.close()
    replayed = await bench.replay(run)
    assert (replayed.mismatch, replayed.calls, replayed.stopped_at) == (None, 1, ("second",))
    found = (await bench.replay(run, asker=an_agent("Asker", max_tokens=9))).mismatch
    assert found is not None
    assert found.step == "first"


async def test_a_run_that_was_taken_up_again(tmp_path):
    gate = asyncio.Event()
    graph = {"steps": [{"id": "loop", "agent": "looper", "input": {"turns": 3}}]}
    bench = Bench(tmp_path, graph, {"looper": an_agent("Looper")})
    first = ScriptedModel([ANSWER, ANSWER, ScriptedStep(text="never ends", gate=gate)])
    service = await bench.open(first)
    run = RunId((await service.submit(Submission("g", {}, T))).id)

    async def asked_thrice() -> bool:
        return len(first.requests) == 3

    await until(asked_thrice)
    await bench.close()
    service = await bench.open(answers(1))
    assert (await service.wait(T, run, 20)).status == "success"
    await bench.close()
    assert bench.recording(run).steps[StepKey("loop")].record.attempt == 2
    replayed = await bench.replay(run)
    assert (replayed.mismatch, replayed.calls, replayed.output_equal) == (None, 6, True)


async def test_a_forked_run_takes_what_was_copied_from_the_record(tmp_path):
    graph = {
        "steps": [
            {"id": "one", "agent": "asker", "input": {"topic": "x"}},
            {"id": "two", "agent": "asker", "input": {"topic": "${steps.one.text}"}},
        ]
    }
    bench = Bench(tmp_path, graph, {"asker": an_agent("Asker")})
    run = await bench.record({}, answers(2))
    service = await bench.open(answers(1))
    forked = await service.fork(T, run, Fork(StepKey("two"), {"topic": "other"}, "me", None))
    assert (await service.wait(T, RunId(forked.id), 20)).status == "success"
    await bench.close()
    replayed = await bench.replay(RunId(forked.id))
    assert (replayed.mismatch, replayed.steps, replayed.calls) == (None, 2, 1)
    assert replayed.output_equal is True


async def test_a_budget_that_ended_a_step_is_not_asked_again(tmp_path):
    graph = {"steps": [{"id": "loop", "agent": "looper", "input": {"turns": 3}}]}
    bench = Bench(tmp_path, graph, {"looper": an_agent("Looper")})
    run = await bench.record({}, answers(3), budget=Budget(model_calls=2))
    assert bench.recording(run).run.error["code"] == "budget_exceeded"
    replayed = await bench.replay(run)
    assert (replayed.mismatch, replayed.calls, replayed.output_equal) == (None, 4, None)


async def test_a_run_sees_its_thread_as_it_was(tmp_path):
    graph = {
        "chat": True,
        "steps": [{"id": "s", "call": SHOUT, "input": {"text": "${thread.values.text || 'none'}"}}],
        "output": {"text": "${steps.s}!", "messages": [{"role": "assistant", "content": "${steps.s}"}]},
    }
    bench = Bench(tmp_path, graph, {})
    service = await bench.open()
    thread = (await service.library("threads", "create", T)).id
    await bench.close()
    runs = [await bench.record({}, thread=ThreadId(thread)) for _ in range(3)]
    outputs = [bench.recording(run).run.output["text"] for run in runs]
    assert outputs == ["NONE!", "NONE!!", "NONE!!!"]
    for run in runs:
        assert (await bench.replay(run)).output_equal is True


async def test_a_record_without_its_wording_is_refused(tmp_path):
    bench = Bench(
        tmp_path,
        {"steps": [{"id": "a", "agent": "asker", "input": {"topic": "x"}}]},
        {"asker": an_agent("Asker")},
    )
    run = await bench.record({}, answers(1))
    engine = create_engine(bench.settings.journal_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE calls SET request = NULL, response = NULL, notes = NULL"))
    engine.dispose()
    with pytest.raises(Conflict) as caught:
        bench.recording(run)
    assert caught.value.code == "record_cleared"


async def test_reading_changes_nothing_and_needs_no_quiet(tmp_path):
    bench = Bench(tmp_path, APPROVAL, {"asker": an_agent("Asker")})
    service = await bench.open(answers(1))
    run = RunId((await service.submit(Submission("g", {}, T))).id)
    await service.wait(T, run, 20)
    # Beside a coordinator at work.
    assert (await bench.replay(run)).calls == 1
    await bench.close()
    folder = bench.settings.home
    before = {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder)) if "journal" in name}
    assert (await bench.replay(run)).calls == 1
    after = {name: (folder / name).read_bytes() for name in before}
    assert after == before


async def test_a_journal_that_is_not_there_or_of_another_version_is_refused(tmp_path):
    with pytest.raises(NotFound), reading(Settings(home=tmp_path).journal_url):
        pass
    assert list(tmp_path.iterdir()) == []
    bench = Bench(tmp_path, APPROVAL, {"asker": an_agent("Asker")})
    run = await bench.record({}, answers(1))
    with pytest.raises(NotFound, match="there is no run"):
        bench.recording(RunId("00000000-0000-4000-8000-000000000000"))
    engine = create_engine(bench.settings.journal_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'r9999'"))
    engine.dispose()
    with pytest.raises(StorageUnavailable, match="r9999"):
        bench.recording(run)
