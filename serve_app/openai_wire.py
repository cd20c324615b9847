"""Between the OpenAI chat format and Manta's messages: used by the gateway (in) and the remote backend (out)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from manta.errors import InvalidInput
from manta.messages import ChatMessage, ChatRequest, ToolCall, ToolSpec, Usage


def message_to_wire(message: ChatMessage) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [call_to_wire(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        wire["name"] = message.name
    return wire


def call_to_wire(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def message_from_wire(data: Mapping[str, Any]) -> ChatMessage:
    """Raises InvalidInput for a content part that is not text, and for arguments that are not a JSON object."""
    calls = tuple(call_from_wire(call) for call in data.get("tool_calls") or ())
    role = "system" if data.get("role") == "developer" else str(data.get("role"))
    if role not in ("system", "user", "assistant", "tool"):
        raise InvalidInput(f"unknown role {role!r}", fix="one of system, developer, user, assistant, tool")
    text = _text(data.get("content"))
    return ChatMessage(role, text, calls, data.get("tool_call_id"), data.get("name"))  # type: ignore[arg-type]


def call_from_wire(data: Mapping[str, Any]) -> ToolCall:
    function = data.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except json.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidInput(f"the arguments of {function.get('name')!r} are not a JSON object")
    return ToolCall(str(data.get("id", "")), str(function.get("name", "")), arguments)


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise InvalidInput("only text content is supported", fix="send strings or parts of type text")
    return "".join(str(part.get("text", "")) for part in parts)


def request_to_wire(request: ChatRequest, model: str, stream: bool) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "model": model,
        "messages": [message_to_wire(message) for message in request.messages],
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": stream,
    }
    if stream:
        wire["stream_options"] = {"include_usage": True}
    optional = {
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "response_format": request.response_format,
        "tools": [tool_to_wire(tool) for tool in request.tools] or None,
        "tool_choice": request.tool_choice,
    }
    return wire | {key: value for key, value in optional.items() if value is not None}


def tool_to_wire(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def tools_from_wire(tools: Sequence[Mapping[str, Any]] | None) -> tuple[ToolSpec, ...]:
    functions = [tool.get("function") or {} for tool in tools or ()]
    return tuple(
        ToolSpec(
            str(f.get("name", "")), str(f.get("description", "")), f.get("parameters") or {"type": "object"}
        )
        for f in functions
    )


def usage_to_wire(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def usage_from_wire(data: Mapping[str, Any] | None) -> Usage:
    data = data or {}
    cached = (data.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(data.get("prompt_tokens") or 0, data.get("completion_tokens") or 0, cached, model_calls=1)
