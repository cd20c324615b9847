"""Names of the things that cross process borders. All are plain strings on the wire."""

import secrets
import time
import uuid
from typing import NewType

RunId = NewType("RunId", str)
"""A UUID in its canonical form, as the Agent Protocol asks."""

StepId = NewType("StepId", str)
"""A step's name in its graph: lower-case letters, digits and underscores."""

StepKey = NewType("StepKey", str)
"""One execution of a step in a run: the step id, `[n]` behind it for the n-th item of a fan-out, `#k` for
the k-th time round of a loop (from 1), and before it the key of the sub-graph step it lies in and a slash:
`angles[2]/draft#3`.
"""

CallKey = NewType("CallKey", str)
"""One model or tool call in a step execution; equal when the step is run again with the same inputs."""

Tenant = NewType("Tenant", str)

ThreadId = NewType("ThreadId", str)
"""A UUID too."""

DEFAULT_TENANT = Tenant("default")


def new_run_id() -> RunId:
    """A UUID of version 7 (RFC 9562): ids of one time are neighbours, so that their rows share the journal's pages."""
    moment = (time.time_ns() // 1_000_000) & ((1 << 48) - 1)
    tail = secrets.randbits(74)
    value = moment << 80 | 7 << 76 | (tail >> 62) << 64 | 2 << 62 | tail & ((1 << 62) - 1)
    return RunId(str(uuid.UUID(int=value)))


def step_key(
    step: StepId, index: int | None = None, *, iteration: int | None = None, parent: str = ""
) -> StepKey:
    item = "" if index is None else f"[{index}]"
    loop = "" if iteration is None else f"#{iteration}"
    return StepKey(f"{parent}/{step}{item}{loop}" if parent else f"{step}{item}{loop}")
