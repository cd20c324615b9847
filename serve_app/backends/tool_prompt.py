"""Messages and tools as chat templates want them, and as text for templates that know no tools."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from manta.messages import ChatMessage, ToolCall, ToolSpec
from serve_app.openai_wire import tool_to_wire

# The words Nous Hermes and Qwen were trained on, which weaker models follow best too.
_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def native_messages(messages: Sequence[ChatMessage], *, short_ids: bool = False) -> list[dict[str, Any]]:
    """For a template that renders tool calls itself. `short_ids`: Mistral's refuses ids not of nine characters."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    shorten = _nine if short_ids else str
    rendered = []
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            entry["tool_calls"] = [_native_call(call, shorten(call.id)) for call in message.tool_calls]
        if message.role == "tool":
            entry["tool_call_id"] = shorten(message.tool_call_id or "")
            entry["name"] = message.name or names.get(message.tool_call_id or "", "")
        rendered.append(entry)
    return rendered


def _native_call(call: ToolCall, id: str) -> dict[str, Any]:
    # As an object: templates turn it into JSON themselves.
    return {"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _nine(id: str) -> str:
    return hashlib.sha256(id.encode()).hexdigest()[:9]


def native_tools(tools: Sequence[ToolSpec]) -> list[dict[str, Any]] | None:
    return [tool_to_wire(tool) for tool in tools] or None


def text_messages(
    messages: Sequence[ChatMessage], tools: Sequence[ToolSpec], result_role: str = "user"
) -> list[dict[str, Any]]:
    """For a template that knows no tools: the tools in the system message, calls and results as text."""
    rendered: list[dict[str, Any]] = []
    for message in messages:
        if message.role != "tool":
            content = "\n".join((*filter(None, [message.content]), *map(_call_text, message.tool_calls)))
            rendered.append({"role": message.role, "content": content})
            continue
        result = f"<tool_response>\n{message.content}\n</tool_response>"
        before = rendered[-1] if rendered else None
        if before is not None and before.get("results"):
            before["content"] += f"\n{result}"
        else:
            # One message for all: many templates want who asks and who answers in turn.
            rendered.append({"role": result_role, "content": result, "results": True})
    plain = [{"role": entry["role"], "content": entry["content"]} for entry in rendered]
    return _with_system(plain, _tools_text(tools)) if tools else plain


def _call_text(call: ToolCall) -> str:
    body = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def _tools_text(tools: Sequence[ToolSpec]) -> str:
    lines = (json.dumps(tool_to_wire(tool), ensure_ascii=False) for tool in tools)
    return _TOOLS.format(tools="\n".join(lines))


def _with_system(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    first: Mapping[str, Any] = messages[0] if messages else {}
    if first.get("role") == "system":
        return [{"role": "system", "content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
