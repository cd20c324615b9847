"""The assistant: one question, answered with tools.

By the strategy `agent` the model chooses them: a document search, Python in the sandbox, and those that the
settings name. By `pipeline` the code does: arithmetic is computed, documents are looked up and every sentence
checked, and only what needs neither is left to the model's memory.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from agents.arithmetic import expression, program
from agents.asking import ask
from agents.base import AgentSetup
from agents.catalog import choose_strategy
from agents.cited import cited
from agents.prompting import load_prompt
from agents.research import Researcher, document_search, passages_in
from agents.run_python import PythonRunner, failure
from agents.tool_loop import run_tool_loop
from agents.watching import SeenCall, WatchingContext
from manta.errors import InvalidInput, ToolError
from manta.messages import Finding, from_json, to_json
from manta.protocols import AgentContext
from tools.python_sandbox import PythonSandbox, SandboxLimits

NOTHING_FOUND = "The documents say nothing about that."
_ANSWER_TOKENS = 160
_SHOWN = 500
"""Characters of a tool's result that the output repeats."""


class Assistant:
    """Input `{question, collection}`, the collection may be null; output `{answer, tools, sources}`.

    `tools` are the calls that were made, `{name, arguments, result}`; `sources` the passages that were read.
    """

    def __init__(self, setup: AgentSetup) -> None:
        self._setup = setup
        backend = None if setup.sandbox.backend == "auto" else setup.sandbox.backend
        limits = SandboxLimits(wall_s=setup.sandbox.wall_s, memory_mb=setup.sandbox.memory_mb)
        self._sandbox = PythonSandbox(backend, limits)
        self._researcher = Researcher(dataclasses.replace(setup, strategy="pipeline"))

    async def run(self, context: AgentContext) -> Any:
        """Raises InvalidInput for an empty question, NotFound for an unknown collection."""
        question = " ".join(str(context.task.input.get("question") or "").split())
        if not question:
            raise InvalidInput("the question is empty", fix="give a question")
        collection = context.task.input.get("collection") or None
        runner = PythonRunner(self._sandbox, context.artifacts, {})
        watching = WatchingContext(context)
        if choose_strategy(self._setup.strategy, await context.model.info()) == "agent":
            return await self._by_agent(watching, runner, question, collection)
        return await self._by_pipeline(watching, runner, question, collection)

    async def _by_agent(
        self, context: WatchingContext, runner: PythonRunner, question: str, collection: str | None
    ) -> dict[str, Any]:
        system, user = load_prompt("assist_agent").messages(question=question, documents=bool(collection))
        tools = [runner.tool(), *([document_search(collection)] if collection else [])]
        text = await run_tool_loop(
            context,
            system=system.content,
            user=user.content,
            tools=self._setup.tools.with_tools(*tools),
            show_tokens=True,
        )
        read = passages_in([call.result for call in context.seen])
        return _output(text.strip(), context.seen, [to_json(passage) for passage in read])

    async def _by_pipeline(
        self, context: WatchingContext, runner: PythonRunner, question: str, collection: str | None
    ) -> dict[str, Any]:
        told: list[str] = []
        sources: list[dict[str, Any]] = []
        asked = expression(question)
        if asked is not None:
            told.append(await _computed(context, runner, asked))
        if collection is not None:
            finding = from_json(Finding, await self._researcher.run(context))
            found, sources = cited(finding.sentences, finding.passages)
            searched = {"collection": collection, "query": question}
            context.seen.append(SeenCall("search_documents", searched, f"{len(finding.passages)} passages"))
            told += found or ([] if told else [NOTHING_FOUND])
        if not told:
            messages = load_prompt("assist").messages(question=question)
            told.append(await ask(context, messages, max_tokens=_ANSWER_TOKENS))
        return _output(" ".join(told), context.seen, sources)


async def _computed(context: AgentContext, runner: PythonRunner, asked: str) -> str:
    try:
        result = await runner.recorded(context, program(asked), {})
    except ToolError as error:
        return f"{asked} was not computed: {error.message}."
    return f"{asked} = {result['stdout'].strip()}." if result["ok"] else f"{asked}: {failure(result)}."


def _output(answer: str, seen: list[SeenCall], sources: list[Any]) -> dict[str, Any]:
    return {"answer": answer, "tools": [_told(call) for call in seen], "sources": sources}


def _told(call: SeenCall) -> dict[str, Any]:
    result: Any = call.result
    if isinstance(result, Mapping) and "stdout" in result:
        result = result["stdout"] if result.get("ok") else failure(result)
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    return {"name": call.name, "arguments": call.arguments, "result": text.strip()[:_SHOWN]}
