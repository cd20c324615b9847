"""What an event of a run is called in the streaming protocol, and who takes it."""

from typing import Any

import pytest

from coordinator.store.records import RunRecord
from manta.events import Event
from manta.ids import RunId, StepKey, Tenant, ThreadId
from manta.messages import Usage
from serve_app.gateway.thread_events import Facts, Teller, Told, Wanted, located, place, run_and_seq

RECORD = RunRecord(
    id=RunId("r"),
    tenant=Tenant("t"),
    principal="p",
    graph_name="g",
    graph_version="v",
    graph={},
    input={},
    metadata={},
    status="running",
    reason=None,
    error=None,
    output=None,
    usage=Usage(),
    epoch=1,
    owner=None,
    cancel_requested=False,
    deadline=None,
    created_at=0.0,
    updated_at=0.0,
    thread=ThreadId("th"),
    number=5,
)  # fmt: skip


def event(seq: int, kind: Any, step: str | None = None, **data: Any) -> Event:
    return Event(RunId("r"), seq, kind, 2.5, StepKey(step) if step else None, data)


def told(*events: Event, facts: Facts = Facts()) -> list[Told]:
    teller = Teller(RECORD)
    return [item for one in events for item in teller.tell(one, facts)]


def test_a_steps_events_lie_in_the_graph_that_it_belongs_to():
    assert located(None) == ((), None)
    assert located("draft") == ((), "draft")
    assert located("angles[2]/draft#3") == (("angles[2]",), "draft#3")


def test_places_grow_over_events_and_runs_and_can_be_read_back():
    places = [place(run, seq) for run in (1, 2, 90_000_000) for seq in (1, 2, 500_000)]
    assert places == sorted(set(places))
    assert [run_and_seq(p) for p in places[-2:]] == [(90_000_000, 2), (90_000_000, 500_000)]
    assert places[-1] < 1 << 53


def test_the_parts_of_an_event_have_the_same_numbers_whatever_is_known():
    one = told(event(3, "run_done"))
    whole = told(event(3, "run_done"), facts=Facts(values={"a": 1}, checkpoint={"id": "c"}))
    assert [item.channel for item in whole] == ["values", "checkpoints", "custom", "lifecycle"]
    seqs = {item.channel: item.seq for item in whole}
    assert {item.channel: item.seq for item in one} == {name: seqs[name] for name in ("custom", "lifecycle")}
    assert max(seqs.values()) <= place(5, 3)  # type: ignore[type-var]
    assert min(seqs.values()) > place(5, 2)  # type: ignore[type-var]


def test_a_wire_event_has_both_spellings_of_its_id():
    item = told(event(1, "run_started"))[-1].plain()
    assert item["type"] == "event"
    assert item["eventId"] == item["event_id"] == str(item["seq"])
    assert item["params"] == {
        "namespace": [],
        "timestamp": 2500,
        "data": {"event": "started", "graph_name": "g", "run_id": "r"},
    }


def test_a_question_is_input_requested():
    (asked, *_) = told(event(4, "step_waiting", "in/check", question="ok?", reason="approval"))
    wire = asked.plain()
    assert (wire["method"], wire["params"]["namespace"], wire["params"]["node"]) == (
        "input.requested",
        ["in"],
        "check",
    )
    assert wire["params"]["data"] == {
        "interrupt_id": "r:in/check",
        "payload": {"question": "ok?", "reason": "approval"},
    }


def test_tokens_become_one_message_from_start_to_finish():
    items = told(
        event(0, "token", "a", text="Hel"),
        event(0, "token", "a", text="lo"),
        event(0, "token", "b", text="other"),
        event(2, "step_done", "a", usage={"input_tokens": 3, "output_tokens": 2}),
    )
    mine = [item for item in items if item.channel == "messages" and item.node == "a"]
    assert [item.data["event"] for item in mine] == [
        "message-start", "content-block-start", "content-block-delta", "content-block-delta",
        "content-block-finish", "message-finish",
    ]  # fmt: skip
    assert len({item.data["id"] for item in mine}) == 1
    assert mine[4].data["content"] == {"type": "text", "text": "Hello"}
    assert mine[5].data["usage"] == {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    assert all(item.seq is None and "eventId" not in item.plain() for item in mine)


@pytest.mark.parametrize("kind", ["step_failed", "step_retried"])
def test_a_message_that_breaks_off_says_so(kind: str):
    items = told(event(0, "token", "a", text="Hel"), event(2, kind, "a", error={"message": "it broke"}))
    last = [item for item in items if item.channel == "messages"][-1]
    assert (last.data["event"], last.data["message"]) == ("error", "it broke")


@pytest.mark.parametrize(
    ("output", "values"), [({"a": 1}, {"a": 1}), ("text", {"output": "text"}), (None, {"output": None})]
)
def test_a_done_step_is_an_update(output: Any, values: Any):
    items = told(event(2, "step_done", "x/a"), facts=Facts(output=output))
    update = next(item for item in items if item.channel == "updates")
    assert update.data == {"node": "a", "values": values}


def test_steps_are_tasks_with_a_result_at_their_end():
    tasks = [
        item.data
        for item in told(
            event(1, "step_started", "a", attempt=2),
            event(2, "step_failed", "a", error={"message": "no"}),
            event(3, "step_waiting", "b", question="ok?"),
            event(4, "step_decided", "b", action="approve"),
        )
        if item.channel == "tasks"
    ]
    assert "result" not in tasks[0]
    assert (tasks[1]["error"], "result" in tasks[1]) == ("no", True)
    assert tasks[2]["interrupts"] == [{"question": "ok?"}]
    assert "result" not in tasks[3]


def test_the_runs_life():
    kinds = ("run_started", "run_waiting", "run_resumed", "run_failed", "run_cancelled", "run_done")
    items = told(*(event(n, kind, error={"message": "no"}) for n, kind in enumerate(kinds, 1)))
    life = [item.data for item in items if item.channel == "lifecycle"]
    assert [data["event"] for data in life] == [
        "started", "interrupted", "running", "failed", "interrupted", "completed",
    ]  # fmt: skip
    assert life[3]["error"] == "no"


SOME = Told("custom", {}, 0.0, ("a", "b"), name="step_done")


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Wanted(frozenset({"custom"})), True),
        (Wanted(frozenset({"custom:step_done"})), True),
        (Wanted(frozenset({"custom:other", "values"})), False),
        (Wanted(frozenset({"custom"}), ((),)), True),
        (Wanted(frozenset({"custom"}), ((),), 1), False),
        (Wanted(frozenset({"custom"}), ((),), 2), True),
        (Wanted(frozenset({"custom"}), (("a",),), 1), True),
        (Wanted(frozenset({"custom"}), (("b",), ("a", "b")), 0), True),
        (Wanted(frozenset({"custom"}), (("a", "b", "c"),)), False),
    ],
)
def test_who_takes_an_event(wanted: Wanted, takes: bool):
    assert wanted.takes(SOME) is takes
