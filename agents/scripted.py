"""A deterministic `ChatModel` that follows a script: for tests, examples and dry runs of a graph.

It answers each call with the step written for it and refuses a call nobody wrote down.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

from manta.errors import ContextLengthExceeded, MantaError, StepError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, ToolCall, Usage

Matcher: TypeAlias = "str | re.Pattern[str] | Callable[[ChatRequest], bool] | None"
_WORD = re.compile(r"\s*\S+\s*|\s+")


@dataclass(frozen=True, slots=True)
class ScriptedStep:
    """One expected call and its answer.

    `expect`: a part of the last message's text, a pattern searched in it, a test of the request, or None
    for any call. `error` is raised after `error_after` pieces of the text. With a `gate` the answer stops
    after its first piece until the gate is set.
    """

    expect: Matcher = None
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    error: MantaError | None = None
    error_after: int = 0
    gate: asyncio.Event | None = None

    def matches(self, request: ChatRequest) -> bool:
        last = request.messages[-1].content if request.messages else ""
        if self.expect is None:
            return True
        if isinstance(self.expect, str):
            return self.expect in last
        if isinstance(self.expect, re.Pattern):
            return self.expect.search(last) is not None
        return self.expect(request)


class ScriptedModel:
    """Plays a script. A token is a word; a message costs one more.

    Args:
        steps: the expected calls. With `ordered` they must come in this order; without, each call takes
            the first step left that matches it, which suits agents that call in parallel.
        abilities: as in `ModelInfo`.
    """

    def __init__(
        self,
        steps: Sequence[ScriptedStep],
        *,
        ordered: bool = True,
        abilities: tuple[str, ...] = (),
        context_window: int = 4096,
        name: str = "scripted",
    ) -> None:
        self._left = list(steps)
        self._ordered = ordered
        self._info = ModelInfo(name, context_window, abilities)
        self._surprises: list[str] = []
        self.requests: list[ChatRequest] = []
        """Every call that reached the model, in order."""
        self.cut_short = 0
        """Calls whose generator was closed before its end."""

    async def info(self) -> ModelInfo:
        return self._info

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        return sum(_words(message) + 1 for message in messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """The scripted answer, word by word.

        Raises:
            StepError: code `script_mismatch`, the script has no such call.
            ContextLengthExceeded: the messages are longer than the window.
        """
        self.requests.append(request)
        prompt = await self.count_tokens(request.messages)
        if prompt >= self._info.context_window:
            raise ContextLengthExceeded(
                f"the prompt has {prompt} tokens, the window of {self._info.id} {self._info.context_window}",
                fix="shorten it",
            )
        step = self._take(request)
        ended = False
        try:
            async with aclosing(_answer(step, prompt)) as chunks:
                async for chunk in chunks:
                    ended = chunk.finish_reason is not None
                    yield chunk
        except MantaError:
            ended = True
            raise
        finally:
            if not ended:
                self.cut_short += 1

    def assert_complete(self) -> None:
        """Raises StepError, code `script_mismatch`, unless each step was used and no other call was made."""
        if self._surprises:
            raise _mismatch(self._surprises[0])
        if self._left:
            raise _mismatch(
                f"{len(self._left)} scripted calls were not made, first: {_describe(self._left[0])}"
            )

    def _take(self, request: ChatRequest) -> ScriptedStep:
        candidates = self._left[:1] if self._ordered else self._left
        for step in candidates:
            if step.matches(request):
                self._left.remove(step)
                return step
        last = request.messages[-1].content[-200:] if request.messages else ""
        expected = "; ".join(_describe(step) for step in candidates) or "no further call"
        self._surprises.append(f"unexpected call, its last message ends in {last!r}; expected: {expected}")
        raise _mismatch(self._surprises[-1])


async def _answer(step: ScriptedStep, prompt_tokens: int) -> AsyncGenerator[ChatChunk, None]:
    pieces = _WORD.findall(step.text)
    for index, piece in enumerate(pieces):
        if step.error is not None and index >= step.error_after:
            break
        if step.gate is not None and index == 1:
            await step.gate.wait()
        await asyncio.sleep(0)
        yield ChatChunk(piece)
    if step.gate is not None and len(pieces) < 2:
        await step.gate.wait()
    if step.error is not None:
        raise step.error
    usage = Usage(input_tokens=prompt_tokens, output_tokens=len(pieces), model_calls=1)
    yield ChatChunk("", step.tool_calls, "tool_calls" if step.tool_calls else "stop", usage)


def _words(message: ChatMessage) -> int:
    arguments = " ".join(f"{call.name} {call.arguments}" for call in message.tool_calls)
    return len(f"{message.content} {arguments}".split())


def _describe(step: ScriptedStep) -> str:
    if isinstance(step.expect, re.Pattern):
        return f"a message matching {step.expect.pattern!r}"
    return f"a message with {step.expect!r}" if isinstance(step.expect, str) else "a call of any kind"


def _mismatch(message: str) -> StepError:
    return StepError(message, fix="mend the script or the agent", code="script_mismatch")
