"""The load of the engine's benchmark: its prompts, what is heard of them, and the engine in this process."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.engine.engine import Engine
from serve_app.engine.types import EngineOutput, GenerationRequest, SamplingParams

_COMMON = "the of and to in is that it was for on are as with his they at be this from have or by one had"
WORDS = _COMMON.split()


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of several requests at once. Seconds: of all, to each one's first text, between later ones."""

    tokens: int
    prompt_tokens: int
    seconds: float
    first: tuple[float, ...]
    gaps: tuple[float, ...]


class Server(Protocol):
    """Answers several prompts at once, greedily, with so many new tokens each."""

    name: str

    async def run(self, prompts: Sequence[str], new_tokens: int) -> Heard: ...


class Prompts:
    """Texts that begin differently each time, so that nothing is shared unless it is meant to be."""

    def __init__(self) -> None:
        self._made = 0

    def several(self, count: int, words: int) -> list[str]:
        return [self.one(words) for _ in range(count)]

    def one(self, words: int) -> str:
        """A text of about as many tokens."""
        self._made += 1
        chosen = (
            WORDS[(index * (self._made % 7 + 3) + self._made) % len(WORDS)] for index in range(words - 4)
        )
        return f"{self._made} " + " ".join(chosen)


class Clock:
    """Times of one request as its text arrives."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._last: float | None = None
        self.first: list[float] = []
        self.gaps: list[float] = []

    def text(self, now: float) -> None:
        if self._last is None:
            self.first.append(now - self._began)
        else:
            self.gaps.append(now - self._last)
        self._last = now


class InProcess:
    """Our engine, without HTTP and Serve."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self._engine = engine
        self._runs = 0

    async def run(self, prompts: Sequence[str], new_tokens: int) -> Heard:
        return await asyncio.to_thread(self._run, [self._engine.encode(text) for text in prompts], new_tokens)

    def _run(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> Heard:
        self._runs += 1
        params = SamplingParams(max_tokens=new_tokens, ignore_eos=True)
        began = time.perf_counter()
        ears = [_Ear(began) for _ in prompts]
        for index, (ids, ear) in enumerate(zip(prompts, ears, strict=True)):
            self._engine.submit(GenerationRequest(f"{self._runs}-{index}", tuple(ids), params), ear)
        for ear in ears:
            ear.wait()
        return Heard(
            sum(ear.tokens for ear in ears),
            sum(len(ids) for ids in prompts),
            time.perf_counter() - began,
            tuple(first for ear in ears for first in ear.clock.first),
            tuple(gap for ear in ears for gap in ear.clock.gaps),
        )


class _Ear:
    """Receives the outputs of one request."""

    def __init__(self, began: float) -> None:
        self.clock = Clock(began)
        self.tokens = 0
        self._failure: str | None = None
        self._ended = threading.Event()

    def __call__(self, output: EngineOutput) -> None:
        if output.token_ids:
            self.clock.text(time.perf_counter())
        self.tokens += len(output.token_ids)
        if output.finish_reason is not None:
            self._failure = output.error
            self._ended.set()

    def wait(self) -> None:
        if not self._ended.wait(600):
            raise TimeoutError("the engine did not finish")
        if self._failure is not None:
            raise RuntimeError(self._failure)
