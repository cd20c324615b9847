"""Python for the analyst: code runs in the sandbox beside the data, and the files it makes are kept as artifacts."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents import charts, tables
from manta.messages import ArtifactRef, from_json, to_json
from manta.protocols import AgentContext, Artifacts
from tools.python_sandbox import PythonSandbox
from tools.toolbox import Tool, ToolContext

HELPERS = {"manta_tables.py": Path(tables.__file__), "manta_charts.py": Path(charts.__file__)}
_PARAMETERS = {
    "type": "object",
    "properties": {"code": {"type": "string", "description": "a complete Python script"}},
    "required": ["code"],
    "additionalProperties": False,
}


class PythonRunner:
    """Runs scripts over one set of data files.

    Args:
        inputs: file name in the sandbox to file here; the helpers for tables and charts come along.
    """

    def __init__(self, sandbox: PythonSandbox, artifacts: Artifacts, inputs: Mapping[str, Path]) -> None:
        self._sandbox = sandbox
        self._artifacts = artifacts
        self._inputs = {**inputs, **HELPERS}

    async def execute(self, code: str) -> dict[str, Any]:
        """`{ok, stdout, stderr, limit, files}` as JSON; the files are artifacts when this returns.

        A recorded outcome names them, so they must be durable before it is written.
        """
        with tempfile.TemporaryDirectory(prefix="manta-python-") as folder:
            result = await self._sandbox.run(code, inputs=self._inputs, output_dir=Path(folder))
            files = [await self._artifacts.put(f.path, f.name, f.media_type) for f in result.files]
        return {
            "ok": result.ok,
            "stdout": result.stdout,
            "stderr": result.stderr[-4000:],
            "limit": result.limit,
            "files": to_json(files),
        }

    async def recorded(self, context: AgentContext, code: str, data: Mapping[str, str]) -> dict[str, Any]:
        """`execute` under the record; `data` is file name to SHA-256, part of what makes two calls equal."""

        async def run() -> dict[str, Any]:
            return await self.execute(code)

        result: dict[str, Any] = await context.call_tool(
            "run_python", {"code": code, "data": dict(data)}, run
        )
        return result

    def tool(self) -> Tool:
        """`execute` as a tool for a model."""

        async def run(arguments: Mapping[str, Any], context: ToolContext | None) -> Any:
            return await self.execute(str(arguments["code"]))

        names = ", ".join(sorted(set(self._inputs) - set(HELPERS))) or "none"
        return Tool(
            "run_python",
            "Run a Python script in a sandbox without network. The current folder holds the data files: "
            f"{names}. `from manta_tables import read_table` reads one whatever its columns; "
            "`from manta_charts import bars, line, scatter` draws PNG files. Print what you found as JSON.",
            _PARAMETERS,
            run,
        )


def made_files(result: Mapping[str, Any]) -> list[ArtifactRef]:
    return [from_json(ArtifactRef, file) for file in result["files"]]


def failure(result: Mapping[str, Any]) -> str:
    """Why a run failed, in one line."""
    if result["limit"]:
        return f"the code reached its {result['limit']} limit"
    stderr = str(result["stderr"])
    return (stderr.strip().splitlines() or ["the code failed without a word"])[-1]
