"""A run's events in the Agent Protocol's streaming protocol: what they are called there, and who wants them. Pure.

A step's events lie in the namespace of the graph that the step belongs to, and name it as their `node`: of
`angles[2]/draft#3` the namespace is `["angles[2]"]`, the node `draft#3`.

Durable events have a `seq` that grows over all runs of a thread. Events of token deltas have none: they are not
replayed.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.store.records import RunRecord
from manta.events import Event
from manta.messages import Usage, from_json, to_json

_IN_ORDER = ("input", "tasks", "updates", "values", "checkpoints", "custom", "lifecycle")
"""The parts of one event of ours. The end of a run comes last, when what it brought has been told."""
METHODS = ("input.requested", "messages", *(name for name in _IN_ORDER if name != "input"))
"""What events are called."""
_EVENTS, _PARTS = 1 << 20, 1 << 3
_LIFE = {
    "run_started": "started",
    "run_resumed": "running",
    "run_waiting": "interrupted",
    "run_done": "completed",
    "run_failed": "failed",
    "run_cancelled": "interrupted",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a subscription takes. Namespaces are prefixes, `depth` how far below them; None is any."""

    channels: frozenset[str]
    namespaces: tuple[tuple[str, ...], ...] | None = None
    depth: int | None = None

    def takes(self, told: "Told") -> bool:
        if told.channel not in self.channels and f"{told.channel}:{told.name}" not in self.channels:
            return False
        return self.namespaces is None or any(self._within(told.namespace, n) for n in self.namespaces)

    def _within(self, namespace: Sequence[str], prefix: Sequence[str]) -> bool:
        below = len(namespace) - len(prefix)
        return (
            below >= 0
            and tuple(namespace[: len(prefix)]) == tuple(prefix)
            and (self.depth is None or below <= self.depth)
        )


@dataclass(frozen=True, slots=True)
class Told:
    """One event of the protocol. `seq` None is not replayed; `name` is of a custom one."""

    channel: str
    data: Mapping[str, Any]
    at: float
    namespace: tuple[str, ...] = ()
    node: str | None = None
    seq: int | None = None
    name: str = ""

    def plain(self) -> dict[str, Any]:
        """As it goes over the wire; the id has both spellings that clients look for."""
        method = "input.requested" if self.channel == "input" else self.channel
        params: dict[str, Any] = {
            "namespace": list(self.namespace),
            "timestamp": int(self.at * 1000),
            "data": dict(self.data),
        }
        if self.node is not None:
            params["node"] = self.node
        told: dict[str, Any] = {"type": "event", "method": method, "params": params}
        if self.seq is not None:
            told |= {"seq": self.seq, "eventId": str(self.seq), "event_id": str(self.seq)}
        return told


@dataclass(frozen=True, slots=True)
class Facts:
    """What an event itself does not say: a step's output, or the thread's state once a run was done."""

    output: Any = None
    values: Mapping[str, Any] | None = None
    checkpoint: Mapping[str, Any] | None = None


def place(run_number: int, seq: int) -> int:
    """The number of the last part of a run's event in its thread. Fits what JavaScript holds exactly."""
    return (run_number * _EVENTS + min(seq, _EVENTS - 1)) * _PARTS + _PARTS - 1


def run_and_seq(since: int) -> tuple[int, int]:
    """The run's number and the event of it that a place in a thread's stream lies in."""
    return since // _PARTS // _EVENTS, since // _PARTS % _EVENTS


def located(key: str | None) -> tuple[tuple[str, ...], str | None]:
    """Namespace and node of a step execution."""
    if key is None:
        return (), None
    *outer, node = key.split("/")
    return tuple(outer), node


def interrupt_id(run: str, key: str) -> str:
    return f"{run}:{key}"


@dataclass(slots=True)
class Teller:
    """Tells one run's events. Remembers the messages that are being written, to say where they begin and end."""

    record: RunRecord
    _open: dict[str, tuple[str, list[str]]] = field(default_factory=dict)

    def tell(self, event: Event, facts: Facts) -> Iterator[Told]:
        namespace, node = located(event.step)
        if event.type == "token":
            yield from self._token(event, namespace, node)
            return
        if event.step is not None and event.type in ("step_done", "step_failed", "step_retried"):
            yield from self._message_ends(event, namespace, node)
        if event.seq == 0:
            return
        first = place(self.record.number, event.seq) - _PARTS + 1
        for channel, data, name in self._parts(event, facts):
            yield Told(channel, data, event.at, namespace, node, first + _IN_ORDER.index(channel), name)

    def _parts(self, event: Event, facts: Facts) -> Iterator[tuple[str, Mapping[str, Any], str]]:
        if event.type == "step_waiting" and event.step is not None:
            asked = {"interrupt_id": interrupt_id(event.run, event.step), "payload": event.data}
            yield "input", asked, ""
        if event.step is not None:
            yield "tasks", _task(event), ""
        if event.type == "step_done":
            values = facts.output if isinstance(facts.output, dict) else {"output": facts.output}
            yield "updates", {"node": located(event.step)[1], "values": values}, ""
        if facts.values is not None:
            yield "values", facts.values, ""
        if facts.checkpoint is not None:
            yield "checkpoints", facts.checkpoint, ""
        yield "custom", {"name": event.type, "payload": to_json(event)}, event.type
        if event.type in _LIFE:
            yield "lifecycle", self._life(event), ""

    def _life(self, event: Event) -> dict[str, Any]:
        data = {
            "event": _LIFE[event.type],
            "graph_name": self.record.graph_name,
            "run_id": self.record.id,
        }
        if event.type == "run_failed":
            data["error"] = str(event.data.get("error", {}).get("message", ""))
        return data

    def _token(self, event: Event, namespace: tuple[str, ...], node: str | None) -> Iterator[Told]:
        key, text = event.step or "", str(event.data.get("text", ""))
        if key not in self._open:
            message = str(uuid.uuid4())
            self._open[key] = message, []
            start = {"event": "message-start", "role": "ai", "id": message, "metadata": self._about(node)}
            yield Told("messages", start, event.at, namespace, node)
            block = {"event": "content-block-start", "index": 0, "content": {"type": "text", "text": ""}}
            yield Told("messages", {**block, "id": message}, event.at, namespace, node)
        message, texts = self._open[key]
        texts.append(text)
        delta = {"event": "content-block-delta", "index": 0, "delta": {"type": "text-delta", "text": text}}
        yield Told("messages", {**delta, "id": message}, event.at, namespace, node)

    def _message_ends(self, event: Event, namespace: tuple[str, ...], node: str | None) -> Iterator[Told]:
        message, texts = self._open.pop(event.step or "", ("", []))
        if not message:
            return
        if event.type != "step_done":
            cause = str(event.data.get("error", {}).get("message", "the step failed"))
            error = {"event": "error", "id": message, "message": cause}
            yield Told("messages", error, event.at, namespace, node)
            return
        content = {"type": "text", "text": "".join(texts)}
        block = {"event": "content-block-finish", "index": 0, "content": content, "id": message}
        yield Told("messages", block, event.at, namespace, node)
        usage = from_json(Usage, event.data.get("usage") or {})
        counts = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        }
        finish = {"event": "message-finish", "id": message, "usage": counts}
        yield Told("messages", finish, event.at, namespace, node)

    def _about(self, node: str | None) -> dict[str, Any]:
        about = {"run_id": self.record.id, "langgraph_node": node}
        return {**about, "thread_id": self.record.thread} if self.record.thread else about


def _task(event: Event) -> dict[str, Any]:
    """A step's beginning, or with `result` its end."""
    told: dict[str, Any] = {"id": event.step, "name": located(event.step)[1], "event": event.type}
    if event.type == "step_started":
        return {**told, "attempt": event.data.get("attempt"), "triggers": []}
    if event.type in ("step_done", "step_failed", "step_skipped", "step_waiting"):
        error = event.data.get("error")
        waits = [event.data] if event.type == "step_waiting" else []
        return {**told, "result": None, "error": error and error.get("message"), "interrupts": waits}
    return told
