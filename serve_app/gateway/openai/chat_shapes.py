"""Chat completions, whole and in pieces, as OpenAI's clients read them."""

import json
from collections.abc import Sequence
from typing import Any

from manta.ids import RunId
from manta.messages import ChatChunk, TokenLogprob, ToolCall, Usage
from serve_app.gateway.openai.gathering import Gathered
from serve_app.gateway.openai.logprobs import chat_logprobs
from serve_app.gateway.openai.routing import FINGERPRINT, new_id, now
from serve_app.openai_wire import call_to_wire, usage_to_wire


class ChatShapes:
    """The objects of one completion. `logprobs`: whether they were asked for; `usage`: of a stream."""

    def __init__(self, model: str, run: RunId | None, *, logprobs: bool, usage: bool) -> None:
        self._head = {
            "id": new_id("chatcmpl-", run),
            "created": now(),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._logprobs = logprobs
        self._pending: dict[str, Any] = {"usage": None} if usage else {}
        self._calls: dict[int, int] = {}

    def whole(self, answers: Sequence[Gathered], usage: Usage) -> dict[str, Any]:
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        head = {**self._head, "object": "chat.completion"}
        return {**head, "choices": choices, "usage": usage_to_wire(usage)}

    def _choice(self, index: int, answer: Gathered) -> dict[str, Any]:
        # OpenAI's own word for a message that is only calls is null.
        text = answer.text or (None if answer.calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        reasoning = "".join(answer.reasoning)
        if reasoning:
            message["reasoning_content"] = reasoning
        if answer.calls:
            message["tool_calls"] = [call_to_wire(call) for call in answer.calls]
        told = self._told(answer.logprobs)
        return {"index": index, "message": message, "logprobs": told, "finish_reason": answer.finish}

    def pieces(self, chunk: ChatChunk) -> list[dict[str, Any]]:
        """The objects of a stream that say what a chunk does."""
        deltas: list[dict[str, Any]] = []
        if chunk.choice not in self._calls:
            self._calls[chunk.choice] = 0
            deltas.append({"role": "assistant", "content": ""})
        if chunk.reasoning:
            deltas.append({"reasoning_content": chunk.reasoning})
        if chunk.text:
            deltas.append({"content": chunk.text})
        for call in chunk.tool_calls:
            deltas += _call_deltas(call, self._calls[chunk.choice])
            self._calls[chunk.choice] += 1
        if chunk.logprobs and not chunk.text:
            deltas.append({})
        objects = [self._piece(chunk.choice, delta) for delta in deltas]
        if chunk.logprobs and self._logprobs:
            objects[-1]["choices"][0]["logprobs"] = self._told(chunk.logprobs)
        if chunk.finish_reason is not None:
            objects.append(self._piece(chunk.choice, {}, chunk.finish_reason))
        return objects

    def last(self, usage: Usage) -> dict[str, Any]:
        """The usage, in an object without choices."""
        head = {**self._head, "object": "chat.completion.chunk"}
        return {**head, "choices": [], "usage": usage_to_wire(usage)}

    def _piece(self, index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **self._pending}

    def _told(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        return {"content": chat_logprobs(tokens), "refusal": None} if self._logprobs else None


def _call_deltas(call: ToolCall, index: int) -> list[dict[str, Any]]:
    """A call as it is streamed: its name, then its arguments."""
    head = {"index": index, "id": call.id, "type": "function"}
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return [
        {"tool_calls": [{**head, "function": {"name": call.name, "arguments": ""}}]},
        {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]},
    ]
