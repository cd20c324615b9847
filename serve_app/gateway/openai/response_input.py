"""Items of /v1/responses as messages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from manta.errors import InvalidInput
from manta.messages import ChatMessage
from serve_app.gateway.errors import BadField
from serve_app.gateway.openai.tooling import each
from serve_app.openai_wire import call_from_wire, message_from_wire

_TEXTS = frozenset({"input_text", "output_text", "text"})


def messages_of(given: str | Sequence[Any], instructions: str | None) -> tuple[ChatMessage, ...]:
    """The conversation that the items are. Raises BadField."""
    told = [ChatMessage("system", instructions)] if instructions else []
    if isinstance(given, str):
        return (*told, ChatMessage("user", given))
    for message in each(given, _message, "input"):
        if message is not None:
            _append(told, message)
    if not told:
        raise BadField("there is no message", fix="send one", param="input")
    return tuple(told)


def _append(told: list[ChatMessage], message: ChatMessage) -> None:
    """Calls are items of their own there, and parts of the assistant's message here."""
    if message.tool_calls and told and told[-1].role == "assistant":
        told[-1] = replace(told[-1], tool_calls=told[-1].tool_calls + message.tool_calls)
    else:
        told.append(message)


def _message(item: Any) -> ChatMessage | None:
    """None for what is no part of a conversation. Raises InvalidInput."""
    if not isinstance(item, Mapping):
        raise InvalidInput("an item is an object", fix="see OpenAI's API")
    match item.get("type", "message"):
        case "message":
            return message_from_wire({"role": item.get("role"), "content": _content(item.get("content"))})
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = call_from_wire({"id": item.get("call_id"), "function": function})
            return ChatMessage("assistant", "", (call,))
        case "function_call_output":
            content = _content(item.get("output"))
            return message_from_wire(
                {"role": "tool", "content": content, "tool_call_id": item.get("call_id")}
            )
        case "reasoning":
            return None
        case kind:
            raise InvalidInput(
                f"items of type {str(kind)[:40]!r} are not supported",
                fix="send messages, function calls and their outputs",
            )


def _content(content: Any) -> Any:
    """Parts in the words of chat completions; what is no text is left for them to refuse."""
    if not isinstance(content, list):
        return content
    return [_part(part) for part in content]


def _part(part: Any) -> Any:
    known = isinstance(part, Mapping) and part.get("type") in _TEXTS
    return {"type": "text", "text": part.get("text", "")} if known else part
