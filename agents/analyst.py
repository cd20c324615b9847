"""The analyst: a question and data files become computed results and charts.

Every number comes from code that ran in the sandbox. By the strategy `pipeline` that code is written from the
table's profile; by `agent` the model writes it, and of its text only the sentences stand whose numbers the
code printed.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.base import AgentSetup
from agents.catalog import choose_strategy
from agents.computations import choose
from agents.programs import CHART, Computation, profile_program
from agents.prompting import load_prompt
from agents.run_python import PythonRunner, failure, made_files
from agents.sentences import clean, identifiers, numbers, split_sentences
from agents.table_profile import TableProfile, profile_from_json
from agents.tool_loop import run_tool_loop
from agents.watching import SeenCall, WatchingContext
from manta.errors import InvalidInput, ToolError, UnreadableData
from manta.messages import Analysis, ArtifactRef, DroppedSentence, Sentence, from_json, to_json
from manta.protocols import AgentContext
from tools.python_sandbox import PythonSandbox, SandboxLimits

TABLE_FIX = "give a CSV file: a header line, then rows with the same columns"


@dataclass(frozen=True, slots=True)
class _Data:
    """A data file under the name it has in the sandbox."""

    name: str
    path: Path
    sha256: str


class Analyst:
    """Input `{question, data: [ArtifactRef]}`; output `{"results": [Analysis], "dropped": [DroppedSentence]}`."""

    def __init__(self, setup: AgentSetup) -> None:
        self._setup = setup
        backend = None if setup.sandbox.backend == "auto" else setup.sandbox.backend
        limits = SandboxLimits(wall_s=setup.sandbox.wall_s, memory_mb=setup.sandbox.memory_mb)
        self._sandbox = PythonSandbox(backend, limits)

    async def run(self, context: AgentContext) -> Any:
        """Raises UnreadableData for a file that holds no table, InvalidInput without a question or a file."""
        question, refs = _input(context.task.input)
        data = await _fetch(context, refs)
        runner = PythonRunner(self._sandbox, context.artifacts, {file.name: file.path for file in data})
        profiles = [await _profile(context, runner, file) for file in data]
        results: list[Analysis] = []
        dropped: list[DroppedSentence] = []
        if choose_strategy(self._setup.strategy, await context.model.info()) == "agent":
            results, dropped = await _by_agent(context, runner, question, profiles)
        if not any(result.statements for result in results):
            for file, profile in zip(data, profiles, strict=True):
                results += await _by_pipeline(context, runner, question, file, profile)
        return {"results": to_json(results), "dropped": to_json(dropped)}


def _input(given: dict[str, Any]) -> tuple[str, list[ArtifactRef]]:
    question = str(given.get("question") or "").strip()
    if not question:
        raise InvalidInput("the question is empty", fix="give a question")
    refs = [from_json(ArtifactRef, ref) for ref in given.get("data") or []]
    if not refs:
        raise InvalidInput("there is no data file to analyse", fix="give --data FILE.csv")
    return question, refs


async def _fetch(context: AgentContext, refs: Sequence[ArtifactRef]) -> list[_Data]:
    files: list[_Data] = []
    for number, ref in enumerate(refs, start=1):
        name = re.sub(r"[^\w.-]", "_", Path(ref.name).name).lstrip(".") or "data"
        if any(name == file.name for file in files):
            name = f"{number}_{name}"
        path = context.workdir / name
        path.write_bytes(await context.artifacts.get(ref))
        files.append(_Data(name, path, ref.sha256))
    return files


async def _profile(context: AgentContext, runner: PythonRunner, file: _Data) -> TableProfile:
    result = await runner.recorded(context, profile_program(file.name), {file.name: file.sha256})
    if not result["ok"]:
        raise ToolError(f"{file.name} could not be read: {failure(result)}", fix="try a smaller file")
    described = json.loads(result["stdout"])
    if "error" in described:
        raise UnreadableData(f"{file.name} is not a table: {described['error']}", fix=TABLE_FIX)
    return profile_from_json(file.name, described)


async def _by_pipeline(
    context: AgentContext, runner: PythonRunner, question: str, file: _Data, table: TableProfile
) -> list[Analysis]:
    return [
        await _compute(context, runner, file, computation, number)
        for number, computation in enumerate(choose(question, table), start=1)
    ]


async def _compute(
    context: AgentContext, runner: PythonRunner, file: _Data, computation: Computation, number: int
) -> Analysis:
    result = await runner.recorded(context, computation.code, {file.name: file.sha256})
    charts = tuple(
        replace(ref, name=f"{Path(file.name).stem}-{number}.png")
        for ref in made_files(result)
        if ref.name == CHART
    )
    output = result["stdout"].strip() if result["ok"] else failure(result)
    told = computation.statements(json.loads(output)) if result["ok"] else []
    statements = tuple(Sentence(text, (), "computed") for text in told if not unbacked(text, output))
    return Analysis(computation.title, statements, computation.code, output, (file.name,), charts)


async def _by_agent(
    context: AgentContext, runner: PythonRunner, question: str, profiles: Sequence[TableProfile]
) -> tuple[list[Analysis], list[DroppedSentence]]:
    watching = WatchingContext(context)
    system, user = load_prompt("analyse").messages(
        question=question, tables=[_for_model(p) for p in profiles]
    )
    text = await run_tool_loop(
        watching, system=system.content, user=user.content, tools=[runner.tool()], show_tokens=True
    )
    calls = [call for call in watching.seen if call.name == "run_python" and call.result["ok"]]
    if not calls:
        return [], [DroppedSentence(clean(s), "no code ran for it") for s in split_sentences(text)]
    return _checked(question, text, calls, tuple(p.file for p in profiles))


def _checked(
    question: str, text: str, calls: Sequence[SeenCall], files: tuple[str, ...]
) -> tuple[list[Analysis], list[DroppedSentence]]:
    output = "\n".join(call.result["stdout"].strip() for call in calls)
    kept: list[Sentence] = []
    dropped: list[DroppedSentence] = []
    for sentence in map(clean, split_sentences(text)):
        reason = unbacked(sentence, f"{output}\n{question}")
        if reason or not numbers(sentence):
            dropped.append(DroppedSentence(sentence, reason or "names no computed number"))
        else:
            kept.append(Sentence(sentence, (), "computed"))
    charts = {ref.name: ref for call in calls for ref in made_files(call.result) if ref.name.endswith(".png")}
    code = "\n\n".join(str(call.arguments["code"]).strip() for call in calls) + "\n"
    return [Analysis(question, tuple(kept), code, output, files, tuple(charts.values()))], dropped


def unbacked(statement: str, output: str) -> str:
    """Why a statement does not follow from what code printed: a number or a name that is not in it; or empty.

    A number and a name that are both there may still be joined wrongly: this check does not see that.
    """
    missing = sorted(numbers(statement) - numbers(output))
    if missing:
        return f"the number {missing[0]} was not printed by the code"
    strange = sorted(name for name in identifiers(statement) if name not in output.lower())
    return f"the name {strange[0]} was not printed by the code" if strange else ""


def _for_model(profile: TableProfile) -> dict[str, Any]:
    columns = [
        {"name": c.name, "kind": c.kind, "min": c.min, "max": c.max, "values": list(c.values[:8])}
        for c in profile.columns
    ]
    return {"file": profile.file, "rows": profile.rows, "columns": columns}
