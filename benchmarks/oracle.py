"""Was anything lost or done twice? Judged from the journal and from a ledger outside it. Pure."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.events import TERMINAL_EVENTS

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Trace:
    """One run as the journal tells it. `steps`: key and output of each; `events`: number, type, step."""

    run: str
    status: str
    output: Any
    steps: Sequence[tuple[str, str, Any]]
    events: Sequence[tuple[int, str, str | None]]


@dataclass(frozen=True, slots=True)
class Expected:
    """Chains of `steps` steps; the coordinator died `kills` times with at most `in_flight` steps under way."""

    steps: int
    in_flight: int
    kills: int


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def violations(
    acknowledged: Sequence[str],
    traces: Mapping[str, Trace],
    ledger: Sequence[Mapping[str, Any]],
    expected: Expected,
) -> list[str]:
    """What went wrong, in words; empty when nothing did."""
    found = [f"run {run} was acknowledged and is gone" for run in acknowledged if run not in traces]
    for trace in traces.values():
        found += [f"run {trace.run}: {what}" for what in _of_run(trace, expected)]
    return [*found, *_of_ledger(traces, ledger, expected)]


def verdict(found: Sequence[str]) -> str:
    if not found:
        return "nothing lost, nothing done twice but what was in flight"
    more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} violations:\n  " + "\n  ".join(found[:SHOWN]) + more


def _of_run(trace: Trace, expected: Expected) -> list[str]:
    found = []
    if trace.status != "success":
        found.append(f"ended as {trace.status}")
    wanted = [(f"s{number}", "done", {"n": number + 1}) for number in range(expected.steps)]
    if sorted(trace.steps, key=lambda step: int(step[0][1:])) != wanted:
        found.append(f"its steps are {list(trace.steps)}")
    if trace.output != {"n": expected.steps}:
        found.append(f"its output is {trace.output}")
    done = {step for _, kind, step in trace.events if kind == "step_done"}
    if done != {f"s{number}" for number in range(expected.steps)}:
        found.append(f"its steps with a result are {sorted(map(str, done))}")
    return [*found, *of_events(trace.events)]


def of_events(events: Sequence[tuple[int, str, str | None]]) -> list[str]:
    """What is wrong with a finished run's events: a gap, a step that was done twice, something after the end.

    Only a run that is resumed goes on after an end.
    """
    found = []
    if [seq for seq, _, _ in events] != list(range(1, len(events) + 1)):
        found.append(f"its events are numbered {[seq for seq, _, _ in events]}")
    done = Counter(step for _, kind, step in events if kind == "step_done")
    if any(times > 1 for times in done.values()):
        found.append(f"its steps were done as often as {dict(done)}")
    followed = [kind for _, kind, _ in events[1:]] + [None]
    ends = [
        number
        for number, (_, kind, _) in enumerate(events, 1)
        if kind in TERMINAL_EVENTS and followed[number - 1] != "run_resumed"
    ]
    if ends != [len(events)]:
        found.append(f"it ended at events {ends} of {len(events)}")
    return found


def _of_ledger(
    traces: Mapping[str, Trace], ledger: Sequence[Mapping[str, Any]], expected: Expected
) -> list[str]:
    effects = Counter((str(line["run"]), str(line["step"])) for line in ledger)
    found = [
        f"run {run}: step s{number} left no side effect"
        for run in traces
        for number in range(expected.steps)
        if not effects[run, f"s{number}"]
    ]
    most = 1 + expected.kills
    found += [
        f"run {run}: step {step} ran {times} times" for (run, step), times in effects.items() if times > most
    ]
    repeated = sum(times - 1 for times in effects.values())
    if repeated > expected.in_flight * expected.kills:
        found.append(f"{repeated} steps ran again, with {expected.in_flight} in flight at each of the kills")
    return found
