"""Our own engine in the replica's process: bridges its thread to the replica's event loop."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from manta.config import EMBEDDED, ModelSettings
from manta.errors import ContextLengthExceeded, InvalidInput, MantaError, ModelError, RunCancelled
from manta.machine import usable_cores
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, Usage
from serve_app.backends.answer_parts import AnswerParts, Parts
from serve_app.backends.dialect import Dialect, Reading
from serve_app.engine.engine import Engine
from serve_app.engine.forms.form import Form
from serve_app.engine.types import EngineConfig, EngineOutput, GenerationRequest, SamplingParams
from serve_app.engine.weights import embedded_llm_path

EMBEDDED_MAX_TOKENS = 512
"""Of an answer of the embedded model to a request that sets no bound."""
PIECES_PER_S, PIECES_PER_S_ON_GPU = 100.0, 1000.0
"""Of all answers of a replica together: each piece takes a millisecond or two of processor time on its way to the
client, and an engine on the same processor goes without them."""
LONGEST_INTERVAL_S = 1.0
"""Between two pieces of one answer, however many there are."""

_log = logging.getLogger(__name__)


class TorchBackend:
    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name = name
        self._settings = settings
        self._engine: Engine | None = None
        self._dialect: Dialect | None = None
        self._answering = 0
        """Answers of which something came, and whose end did not."""

    def start(self) -> None:
        settings = self._settings
        path = embedded_llm_path() if settings.source == EMBEDDED else Path(settings.source).expanduser()
        config = EngineConfig(
            dtype=settings.dtype,
            device=settings.device,
            threads=settings.threads or usable_cores(),
            max_batch=settings.max_batch,
            kv_tokens=settings.kv_tokens,
            context_window=settings.context_window,
            quantize=settings.quantize,
            speculate=settings.speculate,
            cuda_graphs=settings.cuda_graphs,
        )
        engine = Engine.load(path, config)
        engine.start()
        self._engine = engine

    def stop(self) -> None:
        if self._engine is not None:
            self._engine.stop()
            self._engine = self._dialect = None

    @property
    def healthy(self) -> bool:
        return self._engine is None or self._engine.healthy

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise ModelError(f"model {self._name} is not loaded yet", fix="wait until /readyz says so")
        return self._engine

    @property
    def dialect(self) -> Dialect:
        if self._dialect is None:
            self._dialect = Dialect(self.engine)
        return self._dialect

    async def info(self) -> ModelInfo:
        return ModelInfo(self._name, self.engine.context_window, self._settings.abilities)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return len(self.engine.encode(self.dialect.render(messages)))

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        prompt, reading = self._prompt(request)
        room = self.engine.context_window - len(prompt)
        if room < 1:
            cause = f"the prompt has {len(prompt)} tokens, the window of {self._name} is {self.engine.context_window}"
            raise ContextLengthExceeded(cause, fix="shorten it or use a model with a larger window")
        form = await self._form(request, reading)
        most = _most_tokens(request, self._settings, room)
        params = _params(request, form, reading, most, skip=self.dialect.hides_special_tokens(reading))
        wanted = GenerationRequest(
            uuid.uuid4().hex, prompt, params, request.hints.priority, _deadline(request)
        )
        outputs: asyncio.Queue[EngineOutput] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def arrived(output: EngineOutput) -> None:
            loop.call_soon_threadsafe(outputs.put_nowait, output)

        self.engine.submit(wanted, arrived)
        answer = reading.parts()
        told_at = 0.0
        begun = False
        try:
            while True:
                burst = await _burst(outputs, told_at + self._interval_s())
                self._answering += not begun
                begun = True
                told_at = loop.time()
                chunk = _together([_chunk(output, answer) for output in burst if not output.failed])
                if chunk.text or chunk.reasoning or chunk.tool_calls or chunk.logprobs or chunk.finish_reason:
                    yield chunk
                if burst[-1].failed:
                    raise _failure(burst[-1])
                if burst[-1].finish_reason is not None:
                    return
        finally:
            # Also when the caller went away: an ended request is unknown to the engine, and that is fine.
            self._answering -= begun
            self.engine.cancel(wanted.id)

    def _interval_s(self) -> float:
        """Between two pieces of one answer."""
        wanted = self._settings.stream_interval_s
        together = PIECES_PER_S if self.engine.device == "cpu" else PIECES_PER_S_ON_GPU
        shared = min(LONGEST_INTERVAL_S, self._answering / together)
        return max(wanted, shared) if wanted else 0.0

    def _prompt(self, request: ChatRequest) -> tuple[tuple[int, ...], Reading]:
        """The prompt's ids, and how to read the answer. A raw prompt has no thoughts and no tools."""
        raw = request.prompt is not None or bool(request.prompt_ids)
        if raw and request.offered:
            raise InvalidInput("a raw prompt cannot offer tools", fix="send messages")
        if request.prompt_ids:
            return request.prompt_ids, Reading()
        if request.prompt is not None:
            return tuple(self.engine.encode(request.prompt, add_special_tokens=True)), Reading()
        text = self.dialect.render(request.messages, request.offered)
        return tuple(self.engine.encode(text)), self.dialect.reading(request, text)

    async def _form(self, request: ChatRequest, reading: Reading) -> Form | None:
        """The form of the answer, compiled. Raises InvalidInput for one that cannot be used."""
        form = self.dialect.form(request, reading)
        if form is None:
            return None
        try:
            await asyncio.to_thread(self.engine.prepare, form)
        except InvalidInput as error:
            lenient = self.dialect.form(request, reading, lenient=True)
            if lenient is None or lenient == form:
                raise
            # A tool from elsewhere may use any keyword; the rest of its schema still holds.
            await asyncio.to_thread(self.engine.prepare, lenient)
            _log.info("the parameters of a tool hold only in part: %s", error.message)
            return lenient
        return form

    def stats(self) -> dict[str, Any]:
        stats = self.engine.stats()
        return {name: getattr(stats, name) for name in stats.__slots__}


def _most_tokens(request: ChatRequest, settings: ModelSettings, room: int) -> int:
    """Of its answer. `room`: what is left of the window."""
    of_the_model = EMBEDDED_MAX_TOKENS if settings.source == EMBEDDED else room
    return min(request.max_tokens or settings.max_tokens or of_the_model, room)


def _params(
    request: ChatRequest, form: Form | None, reading: Reading, max_tokens: int, *, skip: bool
) -> SamplingParams:
    return SamplingParams(
        **asdict(request.sampling),
        max_tokens=max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        # A stop string is for text: it must not cut a call in two.
        stop=() if request.must_call else request.stop,
        stop_until="" if reading.style is None else reading.style.marker,
        logprobs=request.logprobs,
        form=form,
        skip_special_tokens=skip,
    )


def _deadline(request: ChatRequest) -> float | None:
    if request.hints.deadline is None:
        return None
    # The lease is in wall-clock seconds, which processes share; the engine counts monotonic ones.
    return time.monotonic() + request.hints.deadline - time.time()


async def _burst(outputs: asyncio.Queue[EngineOutput], until: float) -> list[EngineOutput]:
    """The next output, and those that are there or come until then: each trip to the caller costs more than a token."""
    burst = [await outputs.get()]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            while burst[-1].finish_reason is None:
                burst.append(await outputs.get())
    return burst


def _together(chunks: Sequence[ChatChunk]) -> ChatChunk:
    if len(chunks) == 1:
        return chunks[0]
    return ChatChunk(
        text="".join(chunk.text for chunk in chunks),
        tool_calls=tuple(call for chunk in chunks for call in chunk.tool_calls),
        finish_reason=chunks[-1].finish_reason if chunks else None,
        usage=chunks[-1].usage if chunks else None,
        reasoning="".join(chunk.reasoning for chunk in chunks),
        logprobs=tuple(logprob for chunk in chunks for logprob in chunk.logprobs),
    )


def _failure(output: EngineOutput) -> MantaError:
    if output.finish_reason == "cancelled":
        return RunCancelled("the generation was cancelled or its lease lapsed")
    return ModelError(f"the engine failed: {output.error}", fix="see the replica's log")


def _chunk(output: EngineOutput, answer: AnswerParts) -> ChatChunk:
    parts = answer.push(output.text)
    finish: str | None = output.finish_reason
    usage = None
    if finish is not None:
        last = answer.finish()
        parts = Parts(parts.text + last.text, parts.reasoning + last.reasoning, parts.calls + last.calls)
        usage = Usage(output.input_tokens, output.output_tokens, output.cached_tokens, model_calls=1)
        if answer.called and finish == "stop":
            finish = "tool_calls"
    return ChatChunk(
        parts.text,
        parts.calls,
        finish,
        usage,
        parts.reasoning,
        output.logprobs if answer.in_text else (),
    )
