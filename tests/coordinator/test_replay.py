"""Recorded runs executed again: the same code passes, changed code fails at the call it changed."""

from pathlib import Path

import pytest

from agents.scripted import ScriptedModel, ScriptedStep
from manta.ids import RunId
from tests.coordinator import replay_agents
from tests.coordinator.replay_support import Bench, an_agent

FAN_OUT = {
    "steps": [
        {"id": "ask", "agent": "asker", "for_each": "${input.topics}", "input": {"topic": "${item}"}},
        {
            "id": "loud",
            "call": "tests.coordinator.replay_agents:shout",
            "input": {"text": "${steps.ask[0].text}"},
        },
        {"id": "last", "agent": "asker", "needs": ["loud"], "input": {"topic": "${steps.loud}"}},
    ]
}
ANSWERS = ScriptedStep(text="so it is")


@pytest.fixture(autouse=True)
def nothing_ran():
    replay_agents.ran.clear()


async def fan_out(folder: Path) -> tuple[Bench, RunId]:
    bench = Bench(folder, FAN_OUT, {"asker": an_agent("Asker")})
    return bench, await bench.record({"topics": ["a", "b"]}, ScriptedModel([ANSWERS] * 3))


async def test_the_same_code_comes_to_the_same_output(tmp_path):
    bench, run = await fan_out(tmp_path)
    assert bench.recording(run).run.status == "success"
    replayed = await bench.replay(run)
    assert replayed.mismatch is None
    assert (replayed.steps, replayed.calls, replayed.output_equal, replayed.stopped_at) == (4, 3, True, ())


async def test_a_changed_prompt_fails_at_its_call_and_shows_how(tmp_path):
    bench, run = await fan_out(tmp_path)
    found = (await bench.replay(run, asker=an_agent("Asker", words="Speak of"))).mismatch
    assert found is not None
    # The agent counts the prompt's tokens before it asks.
    assert (found.step, found.call) == ("ask[0]", 1)
    assert "'Speak of a.'" in found.cause


async def test_a_changed_parameter_is_named(tmp_path):
    bench, run = await fan_out(tmp_path)
    found = (await bench.replay(run, asker=an_agent("Asker", max_tokens=60))).mismatch
    assert found is not None
    assert (found.step, found.call) == ("ask[0]", 1)
    assert "differs from the recorded one" in found.cause
    assert {"-max_tokens: 50", "+max_tokens: 60"} <= set(found.difference)


async def test_a_call_that_is_not_in_the_record_is_a_mismatch(tmp_path):
    bench, run = await fan_out(tmp_path)
    found = (await bench.replay(run, asker=an_agent("Asker", twice=True))).mismatch
    assert found is not None
    assert (found.step, found.call) == ("ask[0]", 2)
    assert "is not in the record" in found.cause


async def test_another_output_is_a_mismatch(tmp_path):
    bench, run = await fan_out(tmp_path)
    found = (await bench.replay(run, asker=an_agent("Asker", end="!"))).mismatch
    assert found is not None
    assert (found.step, found.call, found.cause) == ("ask[0]", None, "its output differs")
    assert any(line.startswith("+") and "so it is!" in line for line in found.difference)


LOOP = {"steps": [{"id": "loop", "agent": "looper", "input": {"turns": 6}}]}


async def loop(folder: Path) -> tuple[Bench, RunId]:
    bench = Bench(folder, LOOP, {"looper": an_agent("Looper")})
    return bench, await bench.record({}, ScriptedModel([ANSWERS] * 6))


async def test_a_tool_loop_is_replayed_without_its_tools(tmp_path):
    bench, run = await loop(tmp_path)
    assert replay_agents.ran == ["look"] * 6
    calls = bench.recording(run).steps["loop"].calls
    assert len(calls[-2][0].request["messages"]) == 1 + 3 * 5 + 1
    replayed = await bench.replay(run)
    assert (replayed.mismatch, replayed.calls, replayed.output_equal) == (None, 12, True)
    assert replay_agents.ran == ["look"] * 6


async def test_what_changes_in_the_middle_of_a_loop_is_found_there(tmp_path):
    bench, run = await loop(tmp_path)
    found = (await bench.replay(run, looper=an_agent("Looper", skip_tool_of=3))).mismatch
    assert found is not None
    # Four turns of a question and a tool, the last without its tool; then the next question differs.
    assert (found.step, found.call) == ("loop", 8)
    assert any(line.startswith("-") and "'turn': 3" in line for line in found.difference)
    found = (await bench.replay(run, looper=an_agent("Looper", system="Be long."))).mismatch
    assert found is not None
    assert found.call == 1
    assert {"-Be brief.", "+Be long."} <= set(found.difference)


async def test_a_call_that_is_no_longer_made_is_a_mismatch(tmp_path):
    bench, run = await loop(tmp_path)
    found = (await bench.replay(run, looper=an_agent("Looper", skip_tool_of=5))).mismatch
    assert found is not None
    assert (found.step, found.call) == ("loop", 12)
    assert "no longer made" in found.cause


async def test_parallel_tools_may_change_their_order(tmp_path):
    graph = {"steps": [{"id": "all", "agent": "gatherer", "input": {"names": ["a", "b", "c"]}}]}
    bench = Bench(tmp_path, graph, {"gatherer": an_agent("Gatherer")})
    run = await bench.record({})
    replayed = await bench.replay(run, gatherer=an_agent("Gatherer", reverse=True))
    assert (replayed.mismatch, replayed.calls) == (None, 3)


async def test_a_failed_run_is_replayed_to_its_failure(tmp_path):
    graph = {
        "steps": [
            {"id": "first", "agent": "asker", "input": {"topic": "x"}},
            {"id": "fails", "agent": "failing", "needs": ["first"]},
            {"id": "never", "agent": "asker", "needs": ["fails"], "input": {"topic": "y"}},
        ]
    }
    agents = {"asker": an_agent("Asker"), "failing": an_agent("Failing")}
    bench = Bench(tmp_path, graph, agents)
    run = await bench.record({}, ScriptedModel([ANSWERS] * 2))
    assert bench.recording(run).run.status == "error"
    replayed = await bench.replay(run)
    assert (replayed.mismatch, replayed.steps, replayed.calls, replayed.output_equal) == (None, 2, 2, None)
    for changed in (an_agent("Failing", mended=True), an_agent("Failing", error="another")):
        found = (await bench.replay(run, failing=changed)).mismatch
        assert found is not None
        assert (found.step, found.cause) == ("fails", "its outcome differs")


async def test_values_are_compared_by_their_json_not_by_pythons_idea_of_equal(tmp_path):
    bench, run = await fan_out(tmp_path)
    found = (await bench.replay(run, asker=an_agent("Asker", max_tokens=50.0))).mismatch
    assert found is not None
    assert "+max_tokens: 50.0" in found.difference
