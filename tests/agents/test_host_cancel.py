"""A cancel that arrives at an actor goes down to the processes that a tool has started."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agents.catalog import FunctionAgent
from agents.context import LocalArtifacts, LocalCallLog
from agents.host import AgentHost, HostParts
from agents.run_python import PythonRunner
from agents.scripted import ScriptedModel
from agents.workload import Workload
from manta.ids import RunId, StepKey
from manta.messages import CallScope, Task
from manta.protocols import AgentContext
from tests.agents.loop_support import FewDocuments
from tests.agents.test_host import OneModel
from tests.tools.sandbox_probe import NAMES, assert_nobody_left, members, need
from tools.python_sandbox import PythonSandbox

TREE = "import os, time\nos.fork(); os.setsid(); os.fork()\ntime.sleep(1000)"


@pytest.mark.parametrize("name", NAMES)
async def test_a_cancelled_task_kills_its_sandbox_with_all_its_processes(tmp_path: Path, name: str):
    need(name)
    others = members()
    files = LocalArtifacts(tmp_path / "files")
    runner = PythonRunner(PythonSandbox(name), files, {})

    async def agent(context: AgentContext) -> Any:
        return await runner.recorded(context, TREE, {})

    log = LocalCallLog()
    parts = HostParts(OneModel(ScriptedModel([])), FewDocuments(), files, lambda task: log)
    work = Workload(AgentHost(FunctionAgent(agent), parts).perform)
    work.take("me", [Task(CallScope(RunId("run"), StepKey("s")), "agent", {})])
    async with asyncio.timeout(30):
        while len(members() - others) < 5:
            await asyncio.sleep(0.01)
    await work.cancel(RunId("run"), StepKey("s"))
    assert_nobody_left(others)
    assert work.busy == 0
    # Begun and without an outcome: the next attempt runs it again, as it may.
    assert [call.state for call in log.calls(CallScope(RunId("run"), StepKey("s")))] == ["intent"]
