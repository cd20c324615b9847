"""Messages as JSON, from a run's input, a thread or a step's output, read as a model takes them."""

from collections.abc import Mapping
from typing import Any, Literal

from manta.errors import InvalidInput
from manta.messages import ChatMessage

Role = Literal["system", "user", "assistant"]
_ROLES: Mapping[str, Role] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "system",
}


def chat_messages(value: Any) -> tuple[ChatMessage, ...]:
    """A list of `{role, content}` as messages; null is none.

    Content may be text or a list of text parts. Tool results are left out, as no model takes them without
    their calls, and so are messages without text.

    Raises:
        InvalidInput: code `invalid_messages`, it is anything else.
    """
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise _bad(f"messages are a list, not {type(value).__name__}")
    read = [_message(item) for item in value]
    return tuple(message for message in read if message is not None)


def _message(item: Any) -> ChatMessage | None:
    if not isinstance(item, Mapping):
        raise _bad(f"a message is an object, not {type(item).__name__}")
    role = str(item.get("role") or item.get("type") or "")
    if role == "tool":
        return None
    if role not in _ROLES:
        raise _bad(f"a message has the role {role[:40]!r}")
    text = _text(item.get("content"))
    return ChatMessage(_ROLES[role], text) if text.strip() else None


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _bad(f"a message's content is text, not {type(content).__name__}")
    parts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else part
        if not isinstance(text, str):
            raise _bad("a part of a message is not text")
        parts.append(text)
    return "".join(parts)


def _bad(cause: str) -> InvalidInput:
    return InvalidInput(
        cause, fix='give a list of {"role": "user", "content": "..."}', code="invalid_messages"
    )
