"""A response and the events that tell of it, in the order of OpenAI's own.

Each piece of the answer belongs to an output item: a `reasoning`, a `message`, or a `function_call` each. One is
closed before the next is opened.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manta.errors import MantaError
from manta.ids import RunId
from manta.messages import ChatChunk, TokenLogprob, ToolCall, Usage
from serve_app.gateway.errors import in_a_line
from serve_app.gateway.openai.logprobs import chat_logprobs
from serve_app.gateway.openai.routing import new_id, now

Events = list[dict[str, Any]]
_PARTS = {"reasoning": "reasoning_text", "message": "output_text"}
_IDS = {"reasoning": "rs_", "message": "msg_"}
_TOO_MUCH = 429


class ResponseWriter:
    """Takes the chunks of one answer.

    Args:
        model: as it was asked for.
        run: the run behind it, if a graph answers.
        echoed: fields of the request that a response repeats.
        logprobs: whether they are told.
        made_at: seconds since the epoch; None is now.
        ids: makes the id of an output item, of its kind.
    """

    def __init__(
        self,
        model: str,
        run: RunId | None,
        echoed: Mapping[str, Any],
        *,
        logprobs: bool,
        made_at: int | None = None,
        ids: Callable[[str], str] = new_id,
    ) -> None:
        made_at = now() if made_at is None else made_at
        self._head = {"id": new_id("resp_", run), "object": "response", "created_at": made_at, "model": model}
        self._ids = ids
        self._echoed = echoed
        self._logprobs = logprobs
        self._output: list[dict[str, Any]] = []
        self._open = ""
        """The kind of the last item while it is written."""
        self._tokens: list[TokenLogprob] = []
        self._finish: str | None = None
        self._usage: Usage | None = None
        self._error: dict[str, Any] | None = None
        self._count = 0

    @property
    def finished(self) -> bool:
        return self._finish is not None

    def response(self) -> dict[str, Any]:
        """As it is now."""
        status, reason = self._status()
        return {
            **self._head,
            **self._echoed,
            "status": status,
            "completed_at": now() if status == "completed" else None,
            "error": self._error,
            "incomplete_details": reason,
            "output": [dict(item) for item in self._output],
            "usage": None if self._usage is None else response_usage(self._usage),
        }

    def _status(self) -> tuple[str, dict[str, str] | None]:
        if self._error is not None:
            return "failed", None
        if self._finish is None or self._open:
            return "in_progress", None
        if self._finish == "length":
            return "incomplete", {"reason": "max_output_tokens"}
        return "completed", None

    def begin(self) -> Events:
        return [
            self._event(f"response.{word}", response=self.response()) for word in ("created", "in_progress")
        ]

    def take(self, chunk: ChatChunk) -> Events:
        """What a chunk adds."""
        events: Events = []
        if chunk.reasoning:
            events += self._write("reasoning", chunk.reasoning)
        if chunk.text or chunk.logprobs:
            events += self._write("message", chunk.text, chunk.logprobs)
        for call in chunk.tool_calls:
            events += self._close() + self._call(call)
        self._finish = chunk.finish_reason or self._finish
        self._usage = chunk.usage or self._usage
        return events

    def end(self) -> Events:
        """After the last chunk."""
        events: Events = []
        if not any(item["type"] != "reasoning" for item in self._output):
            # Nothing was said: that is a message too.
            events += self._write("message", "")
        events += self._close()
        return [*events, self._event(f"response.{self._status()[0]}", response=self.response())]

    def fail(self, error: MantaError) -> Events:
        """In place of the rest. The items stay as far as they have come."""
        code = "rate_limit_exceeded" if error.http_status == _TOO_MUCH else "server_error"
        self._error = {"code": code, "message": in_a_line(error)}
        return [self._event("response.failed", response=self.response())]

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._count += 1
        return {"type": kind, "sequence_number": self._count - 1, **fields}

    def _of_item(self, kind: str, **fields: Any) -> dict[str, Any]:
        """An event about the last item."""
        place = {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}
        return self._event(f"response.{kind}", **place, **fields)

    def _item_event(self, word: str) -> dict[str, Any]:
        item = dict(self._output[-1])
        return self._event(f"response.output_item.{word}", output_index=len(self._output) - 1, item=item)

    def _write(self, kind: str, text: str, tokens: tuple[TokenLogprob, ...] = ()) -> Events:
        events: Events = []
        if self._open != kind:
            events = [*self._close(), *self._opened(kind)]
        part = self._output[-1]["content"][0]
        part["text"] += text
        more: dict[str, Any] = {}
        if kind == "message":
            self._tokens += tokens
            more["logprobs"] = self._told(tokens)
        if text or tokens:
            events.append(self._of_item(f"{_PARTS[kind]}.delta", content_index=0, delta=text, **more))
        return events

    def _opened(self, kind: str) -> Events:
        self._open, self._tokens = kind, []
        own: dict[str, Any] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
        item = {"id": self._ids(_IDS[kind]), "type": kind, "status": "in_progress", **own}
        self._output.append({**item, "content": []})
        events = [self._item_event("added")]
        more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "message" else {}
        part = {"type": _PARTS[kind], "text": "", **more}
        self._output[-1]["content"] = [part]
        return [*events, self._of_item("content_part.added", content_index=0, part=dict(part))]

    def _close(self) -> Events:
        if not self._open:
            return []
        kind, self._open = self._open, ""
        item = self._output[-1]
        part = item["content"][0]
        more: dict[str, Any] = {}
        if kind == "message":
            more["logprobs"] = part["logprobs"] = self._told(self._tokens)
        item["status"] = "completed" if self._finish != "length" else "incomplete"
        return [
            self._of_item(f"{_PARTS[kind]}.done", content_index=0, text=part["text"], **more),
            self._of_item("content_part.done", content_index=0, part=dict(part)),
            self._item_event("done"),
        ]

    def _call(self, call: ToolCall) -> Events:
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        item = {"id": self._ids("fc_"), "type": "function_call", "call_id": call.id, "name": call.name}
        self._output.append({**item, "arguments": "", "status": "in_progress"})
        events = [self._item_event("added")]
        self._output[-1] |= {"arguments": arguments, "status": "completed"}
        return [
            *events,
            self._of_item("function_call_arguments.delta", delta=arguments),
            self._of_item("function_call_arguments.done", name=call.name, arguments=arguments),
            self._item_event("done"),
        ]

    def _told(self, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        return chat_logprobs(tokens) if self._logprobs else []


def response_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
