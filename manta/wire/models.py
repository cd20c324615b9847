"""Models, graphs, and whether the platform is ready."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from manta.errors import error_from_json
from manta.messages import ChatMessage, Usage, from_json
from manta.sse import unexpected
from manta.wire.call import Call
from manta.wire.values import ChatReply, Component, GraphInfo, Readiness


def graphs() -> Call[Sequence[GraphInfo]]:
    return Call("GET", "/graphs", lambda r: [from_json(GraphInfo, g) for g in r.json()], repeatable=True)


def ready() -> Call[Readiness]:
    def parse(response: httpx.Response) -> Readiness:
        body = response.json()
        parts = {str(k): from_json(Component, v) for k, v in body["components"].items()}
        return Readiness(bool(body["ready"]), parts)

    return Call("GET", "/readyz", parse, repeatable=True, read_timeout_s=10, accepts=frozenset({503}))


def chat(
    messages: "str | Sequence[ChatMessage | Mapping[str, Any]]", model: str, stream: bool, **options: Any
) -> Call[ChatReply]:
    """An empty `model` is the platform's default.

    `options` are further fields of OpenAI's request: temperature, max_tokens, stop, seed.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    body = {"model": model, "messages": [_message(m) for m in messages], "stream": stream, **options}
    return Call("POST", "/v1/chat/completions", _chat_reply, json=body, read_timeout_s=600)


def chat_delta(data: str) -> str:
    """The text in one chunk of a streamed chat; raises the error a chunk may carry instead."""
    try:
        chunk = json.loads(data)
        if isinstance(chunk.get("error"), dict):
            inner = chunk["error"]
            raise error_from_json({**inner, "code": inner.get("code") or inner.get("type") or "error"})
        return "".join(choice.get("delta", {}).get("content") or "" for choice in chunk.get("choices") or [])
    except (ValueError, AttributeError, TypeError):
        raise unexpected(f"chat chunk {data[:80]!r}") from None


def _chat_reply(response: httpx.Response) -> ChatReply:
    body = response.json()
    choice, usage = body["choices"][0], body.get("usage") or {}
    counts = Usage(int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)), model_calls=1)
    return ChatReply(
        str(choice["message"].get("content") or ""), str(body["model"]), str(choice["finish_reason"]), counts
    )


def _message(message: "ChatMessage | Mapping[str, Any]") -> dict[str, Any]:
    if not isinstance(message, ChatMessage):
        return dict(message)
    data: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        data["tool_calls"] = [
            {
                "id": c.id,
                "type": "function",
                "function": {"name": c.name, "arguments": json.dumps(c.arguments)},
            }
            for c in message.tool_calls
        ]
    if message.tool_call_id:
        data["tool_call_id"] = message.tool_call_id
    return data
