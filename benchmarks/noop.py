"""Agents that do nothing, so that what remains is what the platform costs."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from manta.config import ledger_file
from manta.protocols import AgentContext

LOOK_S = 0.2


async def step(context: AgentContext) -> dict[str, Any]:
    """Hand on the number, one higher: a chain's last output tells how many steps ran."""
    return {"n": context.task.input["n"] + 1}


async def noted_step(context: AgentContext) -> dict[str, Any]:
    """The same with a side effect: a line in the ledger."""
    _note(context)
    return {"n": context.task.input["n"] + 1}


async def held_step(context: AgentContext) -> dict[str, Any]:
    """A step that is at work until the file named in its input is there; its begin is noted in the ledger."""
    _note(context)
    release = Path(context.task.input["until"])
    while not release.exists():
        await asyncio.sleep(LOOK_S)
    return {}


def _note(context: AgentContext) -> None:
    """Not flushed to disk: only processes are killed here, and what they wrote outlives them."""
    path = ledger_file()
    if path is None:
        raise RuntimeError("a side effect needs a ledger: set MANTA_LEDGER")
    scope = context.task.scope
    line = {"run": scope.run, "step": scope.step, "attempt": scope.attempt, "epoch": scope.epoch}
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)
