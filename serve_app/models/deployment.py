"""Models on Ray Serve: one application per model, its replicas around one backend each."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from manta.config import EmbedderSettings, ModelSettings, ReplicaSettings
from manta.errors import ModelError
from manta.faults import note_side_effect, reach
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, Price
from manta.telemetry import configure_logging
from serve_app.backends.build import build_backend
from serve_app.models.choices import answers
from serve_app.models.lease import within_lease
from serve_app.models.pace import LineLimits
from serve_app.models.placement import placement
from serve_app.models.request_router import ROUTER
from serve_app.models.scaling_policy import POLICY, REQUESTS, TOKENS
from serve_app.models.waiting import Line

DEPLOYMENT = "model"
LEAST_QUEUED = 256
LONGEST_GENERATION_S = 600.0
"""A replica that is told to stop finishes what it streams; Serve's own grace of 20 s would cut it."""


class ModelDeployment:
    """One replica. Streams by `stream`; a caller that leaves is noticed at the next chunk, one that dies when its
    lease lapses.
    """

    def __init__(self, name: str, settings: ModelSettings, log_level: str) -> None:
        configure_logging(log_level)
        self._name = name
        self._price = Price(**settings.price.model_dump())
        self._line = Line(line_limits(settings.replicas))
        self._backend = build_backend(name, settings)
        self._backend.start()

    async def info(self) -> ModelInfo:
        return dataclasses.replace(await self._backend.info(), price=self._price)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return await self._backend.count_tokens(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        hints = request.hints
        note_side_effect("model_call", run=hints.run, step=hints.step, epoch=hints.epoch, model=self._name)
        first = True
        answered = self._line.answered(self._answers, request)
        async with aclosing(within_lease(answered, hints.deadline)) as chunks:
            async for chunk in chunks:
                yield chunk
                if first:
                    reach("replica.first_token")
                    first = False

    def _answers(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        return answers(self._backend.stream, request)

    def reconfigure(self, line: dict[str, Any]) -> None:
        """By Serve, when `replicas` of a running version is changed."""
        self._line.limits = LineLimits(**line)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve's autoscaler, which passes it on to our policy."""
        requests, tokens = self._line.load()
        return {REQUESTS: requests, TOKENS: tokens}

    async def stats(self) -> dict[str, Any]:
        return {**self._backend.stats(), "line": self._line.stats(), **_placement()}

    def __del__(self) -> None:
        """Serve calls it once the replica's streams have ended."""
        backend = getattr(self, "_backend", None)
        if backend is not None:
            backend.stop()

    def check_health(self) -> None:
        if not self._backend.healthy:
            raise ModelError(f"the backend of {self._name} is broken", fix="the replica is replaced")


class EmbedderDeployment:
    """Sentence embeddings, gathered into batches over all callers."""

    def __init__(self, settings: EmbedderSettings, home: Path, log_level: str) -> None:
        configure_logging(log_level)
        from serve_app.backends.embedder import load_embedder

        self._embedder = load_embedder(settings, home)
        # Of several threads each would keep a team of its own for torch, and memory for each.
        self._thread = ThreadPoolExecutor(1, "embedder")
        self.embed_batch.set_max_batch_size(settings.max_batch)  # type: ignore[attr-defined]

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def embed_batch(self, texts: list[str]) -> list[tuple[list[float], int]]:
        loop = asyncio.get_running_loop()
        vectors, tokens = await loop.run_in_executor(self._thread, self._embedder.encode_counted, texts)
        return list(zip(vectors.tolist(), tokens, strict=True))

    async def embed_counted(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """One vector of 384 floats per text, and the tokens that were read for all of them."""
        embedded = await asyncio.gather(*(self.embed_batch(text) for text in texts))
        return [vector for vector, _ in embedded], sum(tokens for _, tokens in embedded)

    async def stats(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self._embedder.stats), **_placement()}


def _placement() -> dict[str, Any]:
    import ray

    context = ray.get_runtime_context()
    return {"node": context.get_node_id(), "gpus": [str(gpu) for gpu in ray.get_gpu_ids()]}


def model_application(
    name: str, version: int, settings: ModelSettings, log_level: str, *, there: bool = False
) -> serve.Application:
    """The application of one version. Deployed again with other `replicas`, it is changed in place.

    `there`: it was deployed before, and has as many replicas as its load needs.
    """
    options = _model_options(settings.replicas)
    if there:
        # Serve goes back to this number at each change.
        options["autoscaling_config"].initial_replicas = None
    deployment: Any = serve.deployment(name=DEPLOYMENT, **options)(ModelDeployment)
    # Otherwise Serve takes every deployment for other code, and starts all replicas anew.
    deployment = deployment.options(version=f"{name}@{version}", _internal=True)
    return deployment.bind(name, settings, log_level)


def embedder_application(settings: EmbedderSettings, home: Path, log_level: str) -> serve.Application:
    deployment: Any = serve.deployment(name=DEPLOYMENT, **_options(settings.replicas))(EmbedderDeployment)
    return deployment.bind(settings, home, log_level)


def _options(replicas: ReplicaSettings) -> dict[str, Any]:
    scale = AutoscalingConfig(
        min_replicas=replicas.min,
        # At least one is started, to see that it can.
        initial_replicas=None if replicas.min else 1,
        max_replicas=replicas.max,
        target_ongoing_requests=replicas.target_ongoing,
        upscale_delay_s=replicas.upscale_delay_s,
        downscale_delay_s=replicas.downscale_delay_s,
        look_back_period_s=max(2.0, replicas.upscale_delay_s),
        metrics_interval_s=1.0,
    )
    return {
        "autoscaling_config": scale,
        "max_ongoing_requests": replicas.max_ongoing,
        "max_queued_requests": replicas.max_queued,
        **placement(replicas),
        "graceful_shutdown_timeout_s": LONGEST_GENERATION_S,
        "health_check_period_s": 5,
        # Once more, for what is not the model's fault; a model that cannot be loaded is to be known soon.
        "max_constructor_retry_count": 2,
    }


def line_limits(replicas: ReplicaSettings) -> LineLimits:
    return LineLimits(replicas.max_ongoing, replicas.max_queued, replicas.max_wait_s)


def _model_options(replicas: ReplicaSettings) -> dict[str, Any]:
    """A model's replicas hold their own line, so that Serve's bound on a replica is on work and line together."""
    limits = line_limits(replicas)
    options = _options(replicas)
    policy: Any = AutoscalingPolicy
    options["autoscaling_config"].policy = policy(
        policy_function=POLICY,
        policy_kwargs={"target_ongoing": replicas.target_ongoing, "target_tokens": replicas.target_tokens},
    )
    router: Any = RequestRouterConfig
    routing = {"affinity": replicas.routing == "affinity", "slack": replicas.affinity_slack}
    return {
        **options,
        "max_ongoing_requests": limits.most,
        # Of one caller, while there is no replica. What is just on its way to one counts too, a burst say.
        "max_queued_requests": -1
        if replicas.max_queued < 0
        else max(LEAST_QUEUED, limits.most * replicas.max),
        "user_config": dataclasses.asdict(limits),
        "request_router_config": router(request_router_class=ROUTER, request_router_kwargs=routing),
    }
