"""The model-driven loop: it finishes, replays, stays in its budgets and in the window."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from langchain_core.tools import tool as langchain_tool
from pydantic import BaseModel

from agents.context import LocalCallLog
from agents.middleware import OMITTED
from agents.scripted import ScriptedModel, ScriptedStep
from agents.tool_loop import run_tool_loop
from manta.errors import BudgetExceeded, InvalidInput, ModelError, StaleEpoch, ToolError
from manta.messages import CallOutcome, ChatRequest, ToolCall
from tests.agents.loop_support import Attempt, task
from tools.toolbox import Tool, Toolbox, ToolContext, tool

SYSTEM = "Use the tools."


class Runs:
    """Two tools that count their runs."""

    def __init__(self) -> None:
        self.searched: list[str] = []
        self.added = 0

    def tools(self) -> list[Any]:
        @tool
        async def search(query: str, context: ToolContext) -> list[str]:
            """Finds passages."""
            assert context.workdir.is_dir()
            self.searched.append(query)
            return [f"passage about {query}"]

        @langchain_tool
        async def add(a: int, b: int) -> int:
            """Adds two numbers."""
            self.added += 1
            return a + b

        return [search, add]


def two_tool_script() -> list[ScriptedStep]:
    both = (ToolCall("s1", "search", {"query": "ray"}), ToolCall("a1", "add", {"a": 2, "b": 3}))
    return [
        ScriptedStep("How many", tool_calls=both),
        ScriptedStep(_has_results(2), tool_calls=(ToolCall("s2", "search", {"query": "serve"}),)),
        ScriptedStep("passage about serve", "It is 5."),
    ]


def _has_results(count: int) -> Any:
    def matches(request: ChatRequest) -> bool:
        return sum(m.role == "tool" for m in request.messages) == count

    return matches


def model_of(steps: list[ScriptedStep], **fields: Any) -> ScriptedModel:
    return ScriptedModel(steps, abilities=("tools",), **fields)


async def test_a_loop_with_two_tools_finishes_and_replays_without_a_call(tmp_path):
    log, runs, model = LocalCallLog(), Runs(), model_of(two_tool_script())
    for number in (1, 2):
        attempt = Attempt(model, log, tmp_path, number)
        answer = await run_tool_loop(attempt.context, system=SYSTEM, user="How many?", tools=runs.tools())
        assert answer == "It is 5."
        assert (attempt.usage.model_calls, attempt.usage.tool_calls) == (3, 3)
        assert all(done.replayed == (number == 2) for done in attempt.done)
    model.assert_complete()
    assert (runs.searched, runs.added) == (["ray", "serve"], 1)
    first = model.requests[0]
    assert [m.role for m in first.messages] == ["system", "user"]
    assert [t.name for t in first.tools] == ["search", "add"]
    last = model.requests[-1].messages
    assert [(m.role, m.tool_call_id, m.content) for m in last if m.role == "tool"] == [
        ("tool", "s1", '["passage about ray"]'),
        ("tool", "a1", "5"),
        ("tool", "s2", '["passage about serve"]'),
    ]


async def test_one_that_must_look_first_may_answer_only_then(tmp_path):
    model = model_of(two_tool_script())
    attempt = Attempt(model, LocalCallLog(), tmp_path)
    await run_tool_loop(
        attempt.context, system=SYSTEM, user="How many?", tools=Runs().tools(), look_first=True
    )
    assert [request.tool_choice for request in model.requests] == ["required", None, None]


class Killed(Exception):
    """The end of a process, as far as the record can tell."""


@pytest.mark.parametrize("at", range(1, 7))
async def test_a_kill_at_any_outcome_repeats_only_the_call_in_flight(tmp_path, at):
    class DyingLog(LocalCallLog):
        left = at

        async def finish(self, outcome: CallOutcome) -> None:
            self.left -= 1
            if self.left == 0:
                raise Killed
            await super().finish(outcome)

    log, runs = DyingLog(), Runs()
    steps = two_tool_script()
    first = model_of(steps)
    with pytest.raises(Killed):
        await run_tool_loop(
            Attempt(first, log, tmp_path).context, system=SYSTEM, user="How many?", tools=runs.tools()
        )
    committed = [c for c in log.calls(task().scope) if c.state == "done"]
    models_done = sum(c.kind == "model" for c in committed)
    tools_done = sum(c.kind == "tool" for c in committed)
    before = len(runs.searched) + runs.added
    second = model_of(steps[models_done:])
    attempt = Attempt(second, log, tmp_path, 2)
    assert (
        await run_tool_loop(attempt.context, system=SYSTEM, user="How many?", tools=runs.tools())
        == "It is 5."
    )
    second.assert_complete()
    assert len(first.requests) + len(second.requests) <= 3 + 1
    repeated = len(runs.searched) + runs.added - 3
    assert repeated <= before - tools_done


async def test_a_tools_error_and_bad_calls_are_told_to_the_model(tmp_path):
    @tool
    def broken(path: str) -> str:
        """Always fails."""
        raise ToolError("no such file", fix="give another")

    calls = (
        ToolCall("b1", "broken", {"path": "x"}),
        ToolCall("b2", "broken", {"way": 1}),
        ToolCall("b3", "absent", {}),
    )
    model = model_of([ScriptedStep(tool_calls=calls), ScriptedStep(_has_results(3), "I cannot.")])
    context = Attempt(model, LocalCallLog(), tmp_path).context
    assert await run_tool_loop(context, system=SYSTEM, user="Try.", tools=[broken]) == "I cannot."
    told = {m.tool_call_id: m.content for m in model.requests[1].messages if m.role == "tool"}
    assert "no such file (give another)" in told["b1"]
    assert "'path' is a required property" in told["b2"]
    assert "there is no tool 'absent'" in told["b3"]


async def test_an_error_that_is_not_the_tools_ends_the_loop(tmp_path):
    @tool
    def fenced() -> str:
        """Works for a step that was given to another."""
        raise StaleEpoch("late")

    model = model_of([ScriptedStep(tool_calls=(ToolCall("f", "fenced", {}),))])
    with pytest.raises(StaleEpoch):
        await run_tool_loop(
            Attempt(model, LocalCallLog(), tmp_path).context, system=SYSTEM, user="Go.", tools=[fenced]
        )


async def test_the_last_model_call_gets_no_tools_and_one_more_is_not_made(tmp_path):
    runs = Runs()
    steps = [ScriptedStep(tool_calls=(ToolCall(f"c{n}", "search", {"query": str(n)}),)) for n in range(3)]
    model = model_of(steps)
    with pytest.raises(BudgetExceeded, match="3 model calls"):
        await run_tool_loop(
            Attempt(model, LocalCallLog(), tmp_path).context,
            system=SYSTEM,
            user="Go.",
            tools=runs.tools(),
            max_steps=3,
        )
    model.assert_complete()
    assert [len(r.tools) for r in model.requests] == [2, 2, 0]


async def test_spent_tool_calls_are_told_to_the_model(tmp_path):
    runs = Runs()
    calls = tuple(ToolCall(f"c{n}", "search", {"query": str(n)}) for n in range(4))
    model = model_of([ScriptedStep(tool_calls=calls), ScriptedStep(_has_results(4), "Enough.")])
    attempt = Attempt(model, LocalCallLog(), tmp_path)
    answer = await run_tool_loop(
        attempt.context, system=SYSTEM, user="Go.", tools=runs.tools(), max_tool_calls=2
    )
    assert answer == "Enough."
    assert runs.searched == ["0", "1"]
    told = [m.content for m in model.requests[1].messages if m.role == "tool"]
    assert ["no tool calls are left" in text for text in told] == [False, False, True, True]


class Verdict(BaseModel):
    """The verdict."""

    score: int
    why: str


@pytest.mark.parametrize("schema", [Verdict, Verdict.model_json_schema()])
async def test_a_structured_answer_is_checked_and_asked_for_again(tmp_path, schema):
    log, runs = LocalCallLog(), Runs()
    steps = [
        ScriptedStep("Judge", tool_calls=(ToolCall("s", "search", {"query": "x"}),)),
        ScriptedStep(tool_calls=(ToolCall("v1", "Verdict", {"score": "high"}),)),
        ScriptedStep("breaks the schema", tool_calls=(ToolCall("v2", "Verdict", {"score": 4, "why": "ok"}),)),
    ]
    model = model_of(steps)
    for number in (1, 2):
        answer = await run_tool_loop(
            Attempt(model, log, tmp_path, number).context,
            system=SYSTEM,
            user="Judge.",
            tools=runs.tools(),
            response_schema=schema,
        )
        assert answer == {"score": 4, "why": "ok"}
    model.assert_complete()
    assert (model.requests[0].tool_choice, [t.name for t in model.requests[0].tools][-1]) == (
        "required",
        "Verdict",
    )


async def test_a_schema_without_a_name_replays_too_and_json_as_text_is_accepted(tmp_path):
    log = LocalCallLog()
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    model = model_of([ScriptedStep(text='```json\n{"n": 1}\n```')])
    for number in (1, 2):
        context = Attempt(model, log, tmp_path, number).context
        answer = await run_tool_loop(context, system=SYSTEM, user="n?", tools=[], response_schema=schema)
        assert answer == {"n": 1}
    model.assert_complete()


async def test_a_model_that_breaks_the_schema_to_the_end_fails_the_step(tmp_path):
    model = model_of([ScriptedStep(text="no json")] * 2)
    with pytest.raises(ModelError, match="breaks its schema"):
        await run_tool_loop(
            Attempt(model, LocalCallLog(), tmp_path).context,
            system=SYSTEM,
            user="n?",
            tools=[],
            response_schema=Verdict,
            max_steps=2,
        )
    model.assert_complete()


async def test_what_is_sent_stays_in_the_window_and_cuts_old_results_first(tmp_path):
    @tool
    def read(part: int) -> str:
        """Reads a long text."""
        return f"part {part} " + "word " * 150

    steps = [ScriptedStep(tool_calls=(ToolCall(f"r{n}", "read", {"part": n}),)) for n in range(6)]
    model = model_of([*steps, ScriptedStep("part 5", "Done.")], context_window=600)
    log = LocalCallLog()
    for number in (1, 2):
        context = Attempt(model, log, tmp_path, number).context
        answer = await run_tool_loop(context, system=SYSTEM, user="Read all.", tools=[read], max_tokens=100)
        assert answer == "Done."
    model.assert_complete()
    for request in model.requests:
        assert await model.count_tokens(request.messages) <= 500
        assert request.messages[1].content == "Read all."
        answered = {c.id for m in request.messages for c in m.tool_calls}
        assert answered == {m.tool_call_id for m in request.messages if m.role == "tool"}
    assert any(m.content == OMITTED for m in model.requests[-1].messages)


async def test_many_short_turns_lose_the_oldest_whole(tmp_path):
    @tool
    def tick(n: int) -> int:
        """Ticks."""
        return n

    steps = [ScriptedStep(tool_calls=(ToolCall(f"t{n}", "tick", {"n": n}),)) for n in range(20)]
    model = model_of([*steps, ScriptedStep("19", "Done.")], context_window=140)
    context = Attempt(model, LocalCallLog(), tmp_path).context
    answer = await run_tool_loop(
        context, system=SYSTEM, user="Tick.", tools=[tick], max_steps=30, max_tokens=50
    )
    assert answer == "Done."
    last = model.requests[-1].messages
    kept = [c.id for m in last for c in m.tool_calls]
    assert await model.count_tokens(last) <= 90
    assert 3 <= len(kept) < 20
    assert kept == [f"t{n}" for n in range(20 - len(kept), 20)]
    assert [m.tool_call_id for m in last if m.role == "tool"] == kept


async def test_one_result_longer_than_the_window_is_shortened(tmp_path):
    @tool
    def read() -> str:
        """Reads a very long text."""
        return "begin " + "word " * 3000

    model = model_of(
        [ScriptedStep(tool_calls=(ToolCall("r", "read", {}),)), ScriptedStep("begin", "Done.")],
        context_window=400,
    )
    context = Attempt(model, LocalCallLog(), tmp_path).context
    assert await run_tool_loop(context, system=SYSTEM, user="Read.", tools=[read], max_tokens=50) == "Done."
    assert 200 < await model.count_tokens(model.requests[-1].messages) <= 350


async def test_cancelling_reaches_the_model_and_the_tool(tmp_path):
    never, stopped = asyncio.Event(), asyncio.Event()

    async def wait(arguments: Any, context: Any) -> None:
        try:
            await never.wait()
        finally:
            stopped.set()

    slow = Tool("slow", "Waits.", {"type": "object", "properties": {}}, wait)
    for step in (
        ScriptedStep(text="a b", gate=never),
        ScriptedStep(tool_calls=(ToolCall("w", "slow", {}),)),
    ):
        model, log = model_of([step]), LocalCallLog()
        loop = run_tool_loop(
            Attempt(model, log, tmp_path).context, system=SYSTEM, user="Go.", tools=Toolbox([slow])
        )
        work = asyncio.create_task(loop)
        wanted = 1 if step.gate is not None else 2
        async with asyncio.timeout(30):
            while len(log.calls(task().scope)) < wanted:
                await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert model.cut_short == (1 if step.gate is not None else 0)
        assert log.calls(task().scope)[-1].state == "intent"
    assert stopped.is_set()


async def test_text_is_shown_when_asked_for(tmp_path):
    attempt = Attempt(model_of([ScriptedStep(text="a b")]), LocalCallLog(), tmp_path)
    await run_tool_loop(attempt.context, system=SYSTEM, user="Go.", tools=[], show_tokens=True)
    assert attempt.tokens == ["a ", "b"]


async def test_a_budget_of_nothing_is_refused(tmp_path):
    context = Attempt(model_of([]), LocalCallLog(), tmp_path).context
    with pytest.raises(InvalidInput, match="max_steps"):
        await run_tool_loop(context, system=SYSTEM, user="Go.", tools=[], max_steps=0)


def test_the_modules_every_agent_needs_do_not_import_langchain():
    code = (
        "import sys, agents.context, agents.catalog, agents.prompting, agents.scripted, agents.tool_loop\n"
        "print([m for m in sys.modules if m.split('.')[0].startswith(('lang', 'ray', 'torch'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
