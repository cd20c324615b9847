"""Reads the pieces of an OpenAI-compatible server's streamed answer."""

import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx

from manta.errors import InvalidInput, RemoteModelError
from manta.messages import ChatChunk, TokenLogprob, ToolCall
from serve_app.openai_wire import call_from_wire, usage_from_wire

DONE: Mapping[str, Any] = {}
"""Stands for the event `[DONE]`."""
UNKNOWN_TOKEN = -1
"""The id of a token in log-probabilities: OpenAI's API tells texts only."""
_ENDS = {"length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls"}
"""Servers' words for why an answer ended; any other is `stop`."""


class Answer:
    """Gathers tool calls, finish reason and usage from the pieces of one answer.

    `one_call`: the first call is the only one that was asked for; `must_call`: text alone is no answer. Not every
    server keeps to them.
    """

    def __init__(self, *, one_call: bool = False, must_call: bool = False) -> None:
        self._one_call = one_call
        self._must_call = must_call
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish = ""
        self._usage: Mapping[str, Any] | None = None

    def add(self, data: Mapping[str, Any]) -> ChatChunk | None:
        """What is to be passed on of this piece at once. Raises RemoteModelError for an error in the stream."""
        if data is DONE:
            self._finish = self._finish or "stop"
            return None
        if "error" in data:
            raise RemoteModelError(f"the server broke off: {_words(data['error'])}", fix="try again")
        self._usage = data.get("usage") or self._usage
        for choice in data.get("choices") or ():
            self._finish = choice.get("finish_reason") or self._finish
            delta = choice.get("delta") or {}
            for number, piece in enumerate(delta.get("tool_calls") or ()):
                self._gather(piece, number)
            text = delta.get("content") or choice.get("text") or ""
            reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
            logprobs = logprobs_from_wire(choice.get("logprobs"))
            if text or reasoning or logprobs:
                return ChatChunk(text=text, reasoning=reasoning, logprobs=logprobs)
        return None

    def _gather(self, piece: Mapping[str, Any], number: int) -> None:
        call = self._calls.setdefault(
            piece.get("index", number), {"id": "", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = piece.get("id") or call["id"]
        function = piece.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def last(self) -> ChatChunk:
        """The end of the answer: its tool calls whole, why it ended, and its usage.

        A call that was cut off is left out.

        Raises:
            RemoteModelError: the stream ended before the answer did, a tool call is none, or one is missing.
        """
        if not self._finish:
            # Not every server sends `[DONE]`, but all say why an answer ended.
            raise RemoteModelError("the server broke off its answer", fix="try again")
        finish = _ENDS.get(self._finish, "stop")
        calls = self._whole_calls(cut_off=finish == "length")
        if self._must_call and not calls and finish != "length":
            fix = "does the server know how this model calls tools (parser, chat template)?"
            raise RemoteModelError("the server called no tool although one had to be called", fix=fix)
        if calls and finish == "stop":
            # Said by OpenAI itself where one certain tool had to be called.
            finish = "tool_calls"
        return ChatChunk(tool_calls=calls, finish_reason=finish, usage=usage_from_wire(self._usage))

    def _whole_calls(self, *, cut_off: bool) -> tuple[ToolCall, ...]:
        calls: list[ToolCall] = []
        for index in sorted(self._calls)[: 1 if self._one_call else None]:
            try:
                calls.append(_named(call_from_wire(self._calls[index])))
            except InvalidInput as error:
                if not cut_off:
                    raise RemoteModelError(
                        f"the server made a tool call that is none: {error.message}"
                    ) from None
        return tuple(calls)


def _named(call: ToolCall) -> ToolCall:
    return call if call.id else ToolCall(f"call_{uuid.uuid4().hex[:24]}", call.name, call.arguments)


def _words(error: Any) -> str:
    said = error.get("message") if isinstance(error, Mapping) else error
    return " ".join(str(said).split())[:300]


def logprobs_from_wire(told: Mapping[str, Any] | None) -> tuple[TokenLogprob, ...]:
    """From the chat form (`content`), or that of raw completions (lists of the same length)."""
    if not told:
        return ()
    if "content" in told:
        return tuple(_chat_logprob(token) for token in told["content"] or ())
    tokens: Sequence[str] = told.get("tokens") or ()
    values = told.get("token_logprobs") or [None] * len(tokens)
    tops = told.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(text, UNKNOWN_TOKEN, value, _likeliest((top or {}).items()))
        for text, value, top in zip(tokens, values, tops, strict=True)
        if value is not None
    )


def _chat_logprob(told: Mapping[str, Any]) -> TokenLogprob:
    top = [(other["token"], other["logprob"]) for other in told.get("top_logprobs") or ()]
    return TokenLogprob(told["token"], UNKNOWN_TOKEN, told["logprob"], _likeliest(top))


def _likeliest(top: Any) -> tuple[list[object], ...]:
    ordered = sorted(top, key=lambda pair: -pair[1])
    return tuple([text, UNKNOWN_TOKEN, value] for text, value in ordered)


async def server_sent(response: httpx.Response) -> AsyncIterator[Mapping[str, Any]]:
    """The data of each event. Raises RemoteModelError for one that is not a JSON object."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        text = line[5:].strip()
        if text == "[DONE]":
            yield DONE
            return
        try:
            data = json.loads(text)
        except json.JSONDecodeError:
            data = None
        if not isinstance(data, dict):
            raise RemoteModelError("the server sent a chunk that is not JSON", fix="is it OpenAI-compatible?")
        yield data
