"""Ids that have a run's in them: of responses, batches and their files."""

import re

from manta.ids import RunId

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def run_in(value: str, prefix: str) -> RunId | None:
    """The run that an id names behind its prefix."""
    match = re.fullmatch(f"{prefix}({UUID})", value)
    return None if match is None else RunId(match[1])
