"""Between LangChain's messages and Manta's."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call

from manta.errors import InvalidInput
from manta.messages import ChatMessage, TokenLogprob, ToolCall, Usage

_NOT_READ = frozenset({"tool_use", "tool_call", "reasoning", "thinking"})
"""Blocks of an answer's content: calls are in `tool_calls` too, and thought is for nobody but who had it."""


def to_manta(messages: Sequence[BaseMessage]) -> tuple[ChatMessage, ...]:
    """LangChain's messages as Manta's. Raises InvalidInput for content that is not text."""
    return tuple(_to_manta(message) for message in messages)


def to_langchain(messages: Sequence[ChatMessage]) -> list[BaseMessage]:
    """Manta's messages as LangChain's."""
    return [_to_langchain(message) for message in messages]


def _to_manta(message: BaseMessage) -> ChatMessage:
    text = _text(message)
    if isinstance(message, ToolMessage):
        return ChatMessage("tool", text, tool_call_id=message.tool_call_id, name=message.name)
    if isinstance(message, AIMessage):
        calls = [ToolCall(c["id"] or "", c["name"], c["args"]) for c in message.tool_calls]
        # A call whose arguments could not be read still has its answer in the conversation.
        calls += [
            ToolCall(c["id"] or "", c["name"] or "", {"unreadable": c["args"]})
            for c in message.invalid_tool_calls
        ]
        return ChatMessage("assistant", text, tuple(calls), name=message.name)
    if isinstance(message, SystemMessage):
        return ChatMessage("system", text, name=message.name)
    if isinstance(message, HumanMessage):
        return ChatMessage("user", text, name=message.name)
    raise InvalidInput(f"a model cannot read a {type(message).__name__}", fix="use system, human, ai or tool")


def _to_langchain(message: ChatMessage) -> BaseMessage:
    match message.role:
        case "system":
            return SystemMessage(content=message.content, name=message.name)
        case "user":
            return HumanMessage(content=message.content, name=message.name)
        case "tool":
            return ToolMessage(
                content=message.content, tool_call_id=message.tool_call_id or "", name=message.name
            )
        case "assistant":
            calls = [tool_call(name=c.name, args=c.arguments, id=c.id) for c in message.tool_calls]
            return AIMessage(content=message.content, tool_calls=calls, name=message.name)


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = []
    for block in message.content:
        if isinstance(block, str):
            parts.append(block)
        elif block.get("type") == "text":
            parts.append(str(block.get("text", "")))
        elif block.get("type") not in _NOT_READ:
            raise InvalidInput(f"a model cannot read content of type {block.get('type')!r}", fix="send text")
    return "".join(parts)


def named(messages: Sequence[BaseMessage], calls: Sequence[ToolCall]) -> list[ToolCall]:
    """The calls, each with an id of its own within the answer; made from positions, never at random."""
    used: set[str] = set()
    named = []
    for index, call in enumerate(calls):
        identity = call.id or f"call_{len(messages)}_{index}"
        if identity in used:
            identity = f"{identity}_{index}"
        used.add(identity)
        named.append(ToolCall(identity, call.name, call.arguments))
    return named


def thought(text: str) -> dict[str, Any]:
    """What a model thought, as `additional_kwargs` of its message."""
    return {"reasoning_content": text} if text else {}


def told_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Log-probabilities as `response_metadata`, in the shape that `ChatOpenAI` has."""
    content = [
        {
            "token": token.text,
            "logprob": token.logprob,
            "bytes": list(token.text.encode()),
            "top_logprobs": [{"token": text, "logprob": logprob} for text, _, logprob in token.top],
        }
        for token in tokens
    ]
    return {"logprobs": {"content": content}} if content else {}


def usage_metadata(usage: Usage | None) -> UsageMetadata | None:
    """Tokens in and out, as LangChain tells them."""
    if usage is None:
        return None
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details={"cache_read": usage.cached_tokens},
    )
