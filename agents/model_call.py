"""One call of a model as a step of its own: what somebody asked for, kept until it is answered."""

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from manta.errors import InvalidInput, ModelError
from manta.messages import ChatChunk, ChatRequest, TokenLogprob, ToolCall, Usage, from_json, to_json
from manta.protocols import AgentContext


async def ask_model(context: AgentContext, model: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer, as one `ChatChunk` in JSON; watchers see its text grow.

    Args:
        request: a `ChatRequest` in JSON, of one answer.

    Raises:
        InvalidInput: code `invalid_request`, it is none.
        NotFound: there is no model of that name.
        ModelError: the model could not answer.
    """
    asked = _read(request)
    answer = _Answer()
    async with aclosing(context.model_named(model).stream(replace(asked, model=model))) as chunks:
        async for chunk in chunks:
            answer.add(chunk)
            if chunk.text:
                context.emit_token(chunk.text)
    return answer.told()


def _read(request: Mapping[str, Any]) -> ChatRequest:
    try:
        return from_json(ChatRequest, request)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"this is no request to a model: {error}", fix="POST /v1/responses", code="invalid_request"
        ) from None


class _Answer:
    """The chunks of one answer, put together."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprob] = []
        self._finish: str | None = None
        self._usage: Usage | None = None

    def add(self, chunk: ChatChunk) -> None:
        self._texts.append(chunk.text)
        self._thoughts.append(chunk.reasoning)
        self._calls.extend(chunk.tool_calls)
        self._logprobs.extend(chunk.logprobs)
        self._finish = chunk.finish_reason or self._finish
        self._usage = chunk.usage or self._usage

    def told(self) -> dict[str, Any]:
        """Raises ModelError for an answer without an end."""
        if self._finish is None:
            raise ModelError("the model's answer stopped without an end", fix="try the step again")
        whole = ChatChunk(
            "".join(self._texts),
            tuple(self._calls),
            self._finish,
            self._usage,
            "".join(self._thoughts),
            tuple(self._logprobs),
        )
        told: dict[str, Any] = to_json(whole)
        return told
