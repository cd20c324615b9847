"""How a run's events become a view and lines."""

import io
from typing import Any

import pytest
from rich.console import Console

from manta.cli.progress import JsonLines, Lines, Tree, step_line, watcher
from manta.cli.run_view import RunView
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
USED = {"input_tokens": 10, "output_tokens": 2}


def line(folded: RunView, key: str, now: float = 0.0) -> str:
    return step_line(folded.steps[key], now)


def drawn(*events: Event, width: int = 100) -> list[str]:
    """The last picture of the tree, without colours."""
    target = io.StringIO()
    with Tree(Console(file=target, width=width, force_terminal=False)) as tree:
        for item in events:
            tree.see(item)
    return target.getvalue().splitlines()


def test_planned_steps_are_in_the_graphs_order():
    folded = view(BEGUN, event("step_started", "research[1]"), event("step_started", "research[0]"))
    assert list(folded.roots) == ["plan", "research", "write"]
    assert line(folded, "plan") == "· plan"


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
    folded = view(BEGUN, *(event("step_started", f"research[{n}]", at=n) for n in (1, 2)))
    folded.apply(event("step_done", "research[1]", at=3, usage=USED, seconds=2))
    assert line(folded, "research", 5) == "● research  1/2 done  12 tokens  4.0 s"
    folded.apply(event("step_done", "research[2]", at=6, usage=USED, seconds=4))
    assert line(folded, "research") == "✓ research  2/2 done  24 tokens  5.0 s"
    folded.apply(event("step_failed", "research[2]", at=7, error="x"))
    assert line(folded, "research") == "✗ research  1/2 done, 1 failed  24 tokens  6.0 s"


def test_sub_graphs_fan_outs_and_loops_are_parts_of_parts():
    folded = view(BEGUN, event("step_started", "research[2]/draft#3", at=1, agent="writer"))
    assert list(folded.steps)[3:] == [
        "research[2]/draft#3", "research[2]/draft", "research[2]",
    ]  # fmt: skip
    folded.apply(event("token", "research[2]/draft#3", text="a"))
    assert line(folded, "research", 2) == "● research  0/1 done  1 tokens  1.0 s"
    folded.apply(event("step_done", "research[2]/draft#3", at=3, usage=USED, seconds=2))
    folded.apply(event("step_skipped", "research[2]/other", at=3))
    assert line(folded, "research") == "✓ research  1/1 done, 1 skipped  12 tokens  2.0 s"
    assert folded.roots.keys() == {"plan", "research", "write"}


def test_a_step_that_waits_shows_its_question_and_then_the_answer():
    asked = event("step_waiting", "plan", at=1, reason="approval", question="Send it?")
    folded = view(BEGUN, asked)
    assert line(folded, "plan", 9) == "? plan  Send it?"
    folded.apply(event("step_decided", "plan", action="approve", by="me"))
    folded.apply(event("step_done", "plan", at=4))
    assert line(folded, "plan") == "✓ plan  3.0 s  approve by me"
    nested = view(
        BEGUN, event("step_waiting", "research/check", question="ok?"), event("step_started", "write")
    )
    assert line(nested, "research") == "? research  0/1 done, 1 waiting"


def test_failures_and_retries_say_why():
    error = {"code": "step_failed", "message": "it broke", "fix": ""}
    folded = view(
        BEGUN, event("step_started", "plan", at=1), event("step_retried", "plan", error=error, delay_s=4.25)
    )
    assert line(folded, "plan", 1) == "● plan  0.0 s  step_failed: it broke; again in 4.2 s"
    folded.apply(event("step_started", "plan", at=2, attempt=2))
    assert line(folded, "plan", 2) == "● plan  0.0 s  attempt 2  step_failed: it broke"
    folded.apply(event("step_failed", "plan", at=4, error=error))
    assert line(folded, "plan") == "✗ plan  2.0 s  attempt 2  step_failed: it broke"


def test_a_skipped_step():
    assert line(view(BEGUN, event("step_skipped", "write")), "write") == "– write"


def test_the_tree_is_drawn_with_its_branches_and_what_is_done_is_closed():
    picture = drawn(
        BEGUN,
        event("step_done", "plan"),
        event("step_started", "research[10]/draft#1", agent="writer"),
        event("step_started", "research[2]/draft#1", agent="writer"),
        event("step_done", "research[2]/draft#1", seconds=1, usage=USED),
        event("step_started", "research[2]/draft#2", agent="writer"),
    )
    text = [
        " ".join(part for part in row.split() if not part.replace(".", "").isdigit() and part != "s")
        for row in picture
    ]
    assert text == [
        "g",
        "├── ✓ plan",
        "├── ● research 1/3 done tokens",
        "│ ├── ● research[2]/draft 1/2 done tokens",
        "│ │ ├── ✓ draft#1 writer tokens",
        "│ │ └── ● draft#2 writer",
        "│ └── ● research[10]/draft#1 writer",
        "└── · write",
    ]
    closed = drawn(BEGUN, event("step_done", "research[0]"), event("step_done", "research[1]"))
    assert [row.split()[1:3] for row in closed[1:]] == [["·", "plan"], ["✓", "research"], ["·", "write"]]


def test_a_wide_fan_out_shows_what_happens_in_it():
    begun = [event("step_started", f"research[{n}]") for n in range(5000)]
    done = [event("step_done", f"research[{n}]") for n in range(4990)]
    picture = drawn(BEGUN, *begun, *done)
    assert "4990/5000 done" in picture[2]
    assert len(picture) == 4 + 10
    busy = drawn(BEGUN, *begun)
    assert len(busy) == 4 + 12 + 1
    assert "… 4988 more" in busy[-2]


def test_ten_thousand_executions_are_counted():
    folded = view(BEGUN, *(event("step_started", f"research[{n}]/draft") for n in range(10_000)))
    assert folded.steps["research"].counts["running"] == 10_000


def test_a_run_that_waits_says_so_on_a_line():
    target = io.StringIO()
    with Lines(Console(file=target, width=200)) as lines:
        for item in (
            BEGUN,
            event("step_waiting", "plan", question="ok?"),
            event("run_waiting", steps=["plan"]),
        ):
            lines.see(item)
    assert [row.partition(" ")[2] for row in target.getvalue().splitlines()] == [
        "run r started: g",
        "waiting: ? plan  ok?",
        "run waiting for a person: plan",
    ]


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
