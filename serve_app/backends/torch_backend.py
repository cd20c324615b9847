"""Our own engine in the replica's process: bridges its thread to the replica's event loop."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from manta.config import EMBEDDED, ModelSettings
from manta.errors import ContextLengthExceeded, InvalidInput, ModelError, RunCancelled
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, Usage
from serve_app.engine.engine import Engine
from serve_app.engine.types import EngineConfig, EngineOutput, GenerationRequest, SamplingParams
from serve_app.engine.weights import embedded_llm_path

DEFAULT_MAX_TOKENS = 512


class TorchBackend:
    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name = name
        self._settings = settings
        self._engine: Engine | None = None

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
        )
        engine = Engine.load(path, config)
        engine.start()
        self._engine = engine

    def stop(self) -> None:
        if self._engine is not None:
            self._engine.stop()
            self._engine = None

    @property
    def healthy(self) -> bool:
        return self._engine is None or self._engine.healthy

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise ModelError(f"model {self._name} is not loaded yet", fix="wait until /readyz says so")
        return self._engine

    async def info(self) -> ModelInfo:
        return ModelInfo(self._name, self.engine.context_window, self._settings.abilities)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return len(self._render(messages))

    def _render(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        return self.engine.render_chat([_template_message(message) for message in messages])

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        prompt = self._render(request.messages)
        room = self.engine.context_window - len(prompt)
        if room < 1:
            cause = f"the prompt has {len(prompt)} tokens, the window of {self._name} is {self.engine.context_window}"
            raise ContextLengthExceeded(cause, fix="shorten it or use a model with a larger window")
        wanted = _generation(request, prompt, room)
        outputs: asyncio.Queue[EngineOutput] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def arrived(output: EngineOutput) -> None:
            loop.call_soon_threadsafe(outputs.put_nowait, output)

        self.engine.submit(wanted, arrived)
        try:
            while True:
                output = await outputs.get()
                yield _chunk(output)
                if output.finish_reason is not None:
                    return
        finally:
            # Also when the caller went away: an ended request is unknown to the engine, and that is fine.
            self.engine.cancel(wanted.id)

    def stats(self) -> dict[str, Any]:
        stats = self.engine.stats()
        return {name: getattr(stats, name) for name in stats.__slots__}


def usable_cores() -> int:
    """Ray would leave a replica with a fraction of a CPU one thread, whatever else the machine does."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _generation(request: ChatRequest, prompt: tuple[int, ...], room: int) -> GenerationRequest:
    if request.response_format is not None and request.response_format.get("type") != "text":
        raise InvalidInput(
            "this model cannot be held to a response_format", fix="ask in the prompt, or use another model"
        )
    params = SamplingParams(
        max_tokens=min(request.max_tokens or DEFAULT_MAX_TOKENS, room),
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop=request.stop,
    )
    deadline = None
    if request.hints.deadline is not None:
        # The lease is in wall-clock seconds, which processes share; the engine counts monotonic ones.
        deadline = time.monotonic() + request.hints.deadline - time.time()
    return GenerationRequest(uuid.uuid4().hex, prompt, params, request.hints.priority, deadline)


def _chunk(output: EngineOutput) -> ChatChunk:
    if output.finish_reason == "error":
        raise ModelError(f"the engine failed: {output.error}", fix="see the replica's log")
    if output.finish_reason == "cancelled":
        raise RunCancelled("the generation was cancelled or its lease lapsed")
    usage = None
    if output.finish_reason is not None:
        usage = Usage(output.input_tokens, output.output_tokens, output.cached_tokens, model_calls=1)
    return ChatChunk(output.text, finish_reason=output.finish_reason, usage=usage)


def _template_message(message: ChatMessage) -> dict[str, Any]:
    return {"role": message.role, "content": message.content}
