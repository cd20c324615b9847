"""Prompts, LangGraph graphs and functions with a context as steps of a run, on a real journal."""

from pathlib import Path
from typing import Any

from agents.scripted import ScriptedModel, ScriptedStep
from manta.graph import parse_graph
from manta.ids import RunId
from manta.messages import Budget, ToolCall
from tests.graphs.bench import GraphBench, T

WEIGHED = {
    "name": "weighed",
    "steps": [
        {
            "id": "things",
            "prompt": {
                "text": "Name ${input.count} fruits.",
                "temperature": "${input.temperature}",
                "seed": "${input.seed}",
                "json_schema": {"type": "array", "items": {"type": "string"}},
            },
        },
        {
            "id": "weigh",
            "runnable": "tests.agents.own_runnables:agent",
            "for_each": "${steps.things}",
            "input": {"messages": [{"role": "user", "content": "How heavy is a ${item}?"}]},
        },
        {
            "id": "ask",
            "call": "tests.agents.test_worker:asks",
            "input": {"text": "${steps.weigh[0].messages[-1].content}"},
        },
    ],
}


def script() -> ScriptedModel:
    weigh = (ToolCall("c1", "weigh", {"thing": "fig"}),)
    return ScriptedModel(
        [
            ScriptedStep("Name 1 fruits", "figs"),
            ScriptedStep("cannot be used", '["fig"]'),
            ScriptedStep("How heavy is a fig?", "", weigh),
            ScriptedStep("grams", "3 grams."),
            ScriptedStep("3 grams.", "Indeed."),
        ]
    )


GIVEN: dict[str, Any] = {"count": 1, "temperature": "0.5", "seed": 7}


async def test_every_kind_of_the_worker_runs_and_its_calls_are_in_the_journal(tmp_path: Path):
    model = script()
    async with GraphBench(tmp_path, model, graphs={"weighed": parse_graph(WEIGHED)}) as bench:
        record = await bench.run("weighed", GIVEN)
        calls = await bench.service.calls(T, RunId(record.id), False)
    assert (record.status, record.output) == ("success", "Indeed."), record.error
    model.assert_complete()
    assert (model.requests[0].temperature, model.requests[0].seed) == (0.5, 7)
    made = [(call.step, call.call.kind) for call in calls]
    assert made.count(("things", "model")) == 2
    assert sorted(kind for step, kind in made if step == "weigh[0]") == ["model", "model", "tool"]
    assert record.usage.model_calls == 5


async def test_a_budget_reaches_the_calls_within_a_graph_of_the_users(tmp_path: Path):
    model = script()
    async with GraphBench(tmp_path, model, graphs={"weighed": parse_graph(WEIGHED)}) as bench:
        record = await bench.run("weighed", GIVEN, budget=Budget(model_calls=3))
    assert (record.status, record.error["code"]) == ("error", "budget_exceeded")
    assert len(model.requests) == 3
