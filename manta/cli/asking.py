"""What is said when a run waits for a person: the question, what is shown, and the commands that answer it."""

import json
from collections.abc import Iterator
from typing import Any

from manta.cli.common import say, say_json
from manta.messages import to_json
from manta.wire import Run, WaitingStep

WAITS = 3
"""The exit status of a command whose run waits for a person."""
MOST_SHOWN = 4000
"""Characters of what is shown; the rest is there with --json."""


def say_waiting(run: Run, as_json: bool = False) -> None:
    if as_json:
        say_json({"type": "waiting", "run": run.id, "waiting": to_json(list(run.waiting))})
        return
    say(f"run {run.id} waits for a person", style="yellow")
    for step in run.waiting:
        for line in question_lines(step):
            say(line)
        for line in answer_lines(run.id, step, alone=len(run.waiting) == 1):
            say(line)


def question_lines(step: WaitingStep) -> Iterator[str]:
    yield f"  {step.step}: {step.question or step.reason}"
    if step.show is not None:
        text = shown_text(step.show)
        more = len(text) - MOST_SHOWN
        yield from (f"    {line}" for line in text[:MOST_SHOWN].splitlines())
        if more > 0:
            yield f"    … {more} characters more"


def answer_lines(run_id: str, step: WaitingStep, *, alone: bool) -> Iterator[str]:
    """The commands that answer a step. With several that wait each is named."""
    line = f"manta approve {run_id}" + ("" if alone else f" --step '{step.step}'")
    if step.reason == "outcome_unknown":
        yield f"  it did not take effect: {line} --retry"
        yield f"  it did, with a result:  {line} --resolve JSON"
        yield f"  let the step fail:      {line} --reject"
        return
    yield f"  approve: {line}"
    if step.editable:
        yield f"  edit:    {line} --edit JSON"
    yield f"  reject:  {line} --reject"


def shown_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
