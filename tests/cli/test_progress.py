"""How a run's events become a view and lines."""

import io
from typing import Any

import pytest
from rich.console import Console

from manta.cli.progress import JsonLines, Lines, RunView, Tree, step_line, watcher
from manta.events import Event
from manta.ids import RunId, StepKey


def event(kind: Any, step: str | None = None, at: float = 0.0, **data: Any) -> Event:
    return Event(RunId("r"), 1, kind, at, StepKey(step) if step else None, data)


def view(*events: Event) -> RunView:
    folded = RunView()
    for item in events:
        folded.apply(item)
    return folded


BEGUN = event("run_started", graph="g", steps=["plan", "research", "write"])


def line(folded: RunView, key: str, now: float = 0.0) -> str:
    return step_line(key, folded.steps[key], now)


def test_planned_steps_wait_in_the_graphs_order():
    folded = view(BEGUN, event("step_started", "research[1]"), event("step_started", "research[0]"))
    assert [key for key, _ in folded.ordered()] == ["plan", "research", "research[0]", "research[1]", "write"]
    assert line(folded, "plan") == "· plan"


def test_ten_executions_are_in_the_order_of_their_numbers():
    folded = view(BEGUN, *(event("step_started", f"research[{n}]") for n in (10, 2)))
    assert [key for key, _ in folded.ordered()][2:4] == ["research[2]", "research[10]"]


def test_a_running_step_counts_seconds_and_tokens():
    folded = view(
        BEGUN,
        event("step_started", "plan", at=10, agent="planner", attempt=2),
        event("token", "plan", text="a"),
    )
    assert line(folded, "plan", 12.5) == "● plan  planner  1 tokens  2.5 s  attempt 2"


def test_a_done_step_has_the_models_own_count():
    usage = {"input_tokens": 100, "output_tokens": 20}
    folded = view(
        BEGUN,
        event("step_started", "plan"),
        event("token", "plan"),
        event("step_done", "plan", usage=usage, seconds=3),
    )
    assert line(folded, "plan") == "✓ plan  120 tokens  3.0 s"


def test_a_fan_out_is_the_sum_of_its_executions():
    usage = {"input_tokens": 10, "output_tokens": 2}
    folded = view(BEGUN, *(event("step_started", f"research[{n}]", at=n) for n in (1, 2)))
    folded.apply(event("step_done", "research[1]", at=3, usage=usage, seconds=2))
    assert line(folded, "research", 5) == "● research  12 tokens  4.0 s"
    folded.apply(event("step_done", "research[2]", at=6, usage=usage, seconds=4))
    assert line(folded, "research") == "✓ research  24 tokens  5.0 s"
    folded.apply(event("step_failed", "research[2]", at=7))
    assert folded.steps["research"].state == "failed"


def test_failures_and_retries_say_why():
    error = {"code": "step_failed", "message": "it broke", "fix": ""}
    folded = view(BEGUN, event("step_started", "plan", at=1), event("step_retried", "plan", error=error))
    assert "step_failed: it broke" in line(folded, "plan")
    folded.apply(event("step_failed", "plan", at=3, error=error))
    assert line(folded, "plan") == "✗ plan  2.0 s  step_failed: it broke"


def test_a_skipped_step():
    assert line(view(BEGUN, event("step_skipped", "write")), "write") == "– write"


def test_the_tree_is_drawn_with_its_branches():
    target = io.StringIO()
    console = Console(file=target, force_terminal=True, width=80)
    with Tree(console) as tree:
        for item in (
            BEGUN,
            event("step_started", "research[0]", agent="research"),
            event("step_done", "plan"),
        ):
            tree.see(item)
    text = target.getvalue()
    for word in ("g", "✓ plan", "└── ", "● research[0]  research"):
        assert word in text


@pytest.mark.parametrize(
    ("terminal", "as_json", "kind"), [(True, False, Tree), (False, False, Lines), (True, True, JsonLines)]
)
def test_the_way_to_print_is_chosen(terminal: bool, as_json: bool, kind: type):
    assert isinstance(watcher(Console(file=io.StringIO(), force_terminal=terminal), as_json), kind)


def test_text_of_the_run_is_never_markup():
    target = io.StringIO()
    with Lines(Console(file=target, width=200)) as lines:
        lines.see(event("run_failed", error={"code": "x", "message": "[red]not a colour[/red] [/]"}))
    assert "[red]not a colour[/red] [/]" in target.getvalue()
