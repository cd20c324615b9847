"""Reading the keys of step executions; `manta.ids.step_key` makes them. Pure."""

import re

from manta.ids import StepKey

_LAST = re.compile(r"([^/\[#]+)(?:\[(\d+)\])?(?:#\d+)?$")


def step_of(key: StepKey) -> str:
    """The id, in its own graph, of the step that an execution is of."""
    found = _LAST.search(key)
    return found.group(1) if found else key


def index_of(key: StepKey) -> int | None:
    """The place of an item in its fan-out."""
    found = _LAST.search(key)
    return int(found.group(2)) if found and found.group(2) is not None else None


def covers(outer: StepKey, key: StepKey) -> bool:
    """Whether `key` is the execution `outer`, one of its items or rounds, or beneath it; empty is the whole run."""
    if not outer:
        return True
    return key.startswith(outer) and key[len(outer) : len(outer) + 1] in ("", "/", "[", "#")
