"""An answer as it is kept: the pieces of a stream put together, as JSON, and told again."""

import dataclasses
import json
from dataclasses import dataclass, field

from manta.messages import ChatChunk, TokenLogprob, ToolCall, Usage, from_json, to_json

WHOLE = frozenset({"stop", "length", "tool_calls"})
"""The ends of an answer that say that it is all the model had to say within its bounds."""


@dataclass(slots=True)
class _Part:
    """What came of one of the request's answers."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    def chunk(self, number: int, usage: Usage | None) -> ChatChunk:
        return ChatChunk(
            "".join(self.texts),
            tuple(self.calls),
            self.finish_reason,
            usage,
            "".join(self.thoughts),
            tuple(self.logprobs),
            number,
        )


class Gathering:
    """The chunks of a stream as they come. `by`: who gave them, as far as that was said; see `ChatChunk.by`."""

    def __init__(self, answers: int) -> None:
        self._parts = [_Part() for _ in range(answers)]
        self.by: set[str] = set()

    def add(self, chunk: ChatChunk) -> None:
        if chunk.by:
            self.by.add(chunk.by)
        if not 0 <= chunk.choice < len(self._parts):
            # No answer was asked for under this number, so none of this is kept.
            self._parts.append(_Part())
            return
        part = self._parts[chunk.choice]
        part.texts.append(chunk.text)
        part.thoughts.append(chunk.reasoning)
        part.calls.extend(chunk.tool_calls)
        part.logprobs.extend(chunk.logprobs)
        part.finish_reason = chunk.finish_reason or part.finish_reason

    def whole(self, usage: Usage) -> tuple[ChatChunk, ...] | None:
        """A chunk for each answer, the last with the usage; None if one of them did not come to its own end."""
        if any(part.finish_reason not in WHOLE for part in self._parts):
            return None
        last = len(self._parts) - 1
        return tuple(
            part.chunk(number, usage if number == last else None) for number, part in enumerate(self._parts)
        )


def has_calls(answer: tuple[ChatChunk, ...]) -> bool:
    return any(chunk.tool_calls for chunk in answer)


def packed(answer: tuple[ChatChunk, ...]) -> bytes:
    return json.dumps(to_json(answer), separators=(",", ":"), ensure_ascii=True).encode()


def unpacked(data: bytes) -> tuple[ChatChunk, ...]:
    """Raises ValueError, TypeError: it is no answer of this or a later version of Manta."""
    return tuple(from_json(ChatChunk, chunk) for chunk in json.loads(data))


def again(answer: tuple[ChatChunk, ...], by: str) -> list[ChatChunk]:
    """The answer as it is given once more: nothing of its prompt was read, and it costs nothing.

    Args:
        by: who gave it, MODEL@VERSION.
    """
    told = [dataclasses.replace(chunk, usage=_again(chunk.usage)) for chunk in answer]
    # Of one answer the first piece is the last too.
    for number in {0, len(told) - 1}:
        told[number] = dataclasses.replace(told[number], by=by)
    return told


def _again(usage: Usage | None) -> Usage | None:
    if usage is None:
        return None
    return dataclasses.replace(usage, cached_tokens=usage.input_tokens, cost_micros=0)
