"""Replicas of models and of the embedder as others see them: protocols over Serve handles, found by name."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import ray.exceptions
from ray import serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from manta.errors import MantaError, Overloaded, ReplicaLost
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo
from serve_app.models.deployment import DEPLOYMENT
from serve_app.models.names import EMBEDDER_APP, model_app
from tools.ray_calls import own_error

OWN_END_S = 0.5
"""How long a caller's own cancellation may take to arrive behind that of its call; with none the replica is lost."""


class ServeModel:
    """A `ChatModel` over the replicas of one version of a model."""

    def __init__(self, name: str, version: int) -> None:
        self._name = name
        self._version = version
        self._handle: Any = None
        self._streaming: Any = None
        self._info: ModelInfo | None = None

    async def _replicas(self) -> Any:
        """Raises ReplicaLost: there is no such application."""
        if self._handle is None:
            app = model_app(self._name, self._version)
            try:
                # It asks Serve's controller whether it is there, and blocks until that has answered.
                handle = await asyncio.to_thread(serve.get_deployment_handle, DEPLOYMENT, app)
            except KeyError:
                raise ReplicaLost(f"{app} is not there", fix="it may have gone just now; try again") from None
            if self._handle is None:
                self._handle, self._streaming = handle, handle.options(stream=True)
        return self._handle

    async def info(self) -> ModelInfo:
        if self._info is None:
            self._info = await self._ask("info")
        return self._info

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        counted: int = await self._ask("count_tokens", tuple(messages))
        return counted

    async def ping(self) -> None:
        """Returns if a replica answers just now; `info` may come from memory."""
        await self._ask("info")

    async def stats(self) -> list[dict[str, Any]]:
        """What every replica counts, and the devices it holds."""
        try:
            replicas = await self._replicas()
            counted = list(await replicas.broadcast("stats").results_async())
        except DeploymentUnavailableError:
            # It is scaled to zero, and stays so.
            return []
        except Exception as error:
            raise _translated(self._name, error) from None
        return [{"version": self._version, **stats} for stats in counted]

    async def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(await self._replicas(), method).remote(*arguments)
        except Exception as error:
            raise _translated(self._name, error) from None

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        response: Any = None
        ended = False
        try:
            await self._replicas()
            response = self._streaming.stream.remote(request)
            async for chunk in response:
                # The last of all; with several answers each of them has an end of its own before.
                ended = chunk.usage is not None
                yield chunk
        except (ray.exceptions.RayError, RayServeException) as error:
            if isinstance(error, ray.exceptions.TaskCancelledError):
                # Ray cancels the calls of a task a moment before the task itself: no failure of the replica's.
                await asyncio.sleep(OWN_END_S)
            raise _translated(self._name, error) from None
        finally:
            if response is not None and not ended:
                # Nothing else stops the replica: not a break out of the loop, not the caller's own cancellation.
                # A call that reached none raises its error once more.
                with contextlib.suppress(ray.exceptions.RayError, RayServeException, MantaError):
                    response.cancel()


class ServeEmbedder:
    """An `Embedder` over the replicas of the embedding deployment."""

    dimensions = 384

    def __init__(self) -> None:
        self._handle: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ServeEmbedder, ()

    def _replicas(self) -> Any:
        if self._handle is None:
            self._handle = serve.get_deployment_handle(DEPLOYMENT, app_name=EMBEDDER_APP)
        return self._handle

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return (await self.embed_counted(texts))[0]

    async def embed_counted(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """One vector per text, and the model's tokens that were read for all of them."""
        try:
            counted: tuple[list[list[float]], int] = await self._replicas().embed_counted.remote(list(texts))
            return counted
        except (ray.exceptions.RayError, RayServeException) as error:
            raise _translated("embedder", error) from None

    async def stats(self) -> list[dict[str, Any]]:
        """What every replica counts: `texts`, `passes` of the model, `tokens`; and where it is."""
        try:
            return list(await self._replicas().broadcast("stats").results_async())
        except Exception as error:
            raise _translated("embedder", error) from None


def _translated(name: str, error: Exception) -> Exception:
    """What went wrong between here and a replica, as an error of ours."""
    own = own_error(error)
    if own is not None:
        return own
    if isinstance(error, BackPressureError):
        return Overloaded(f"model {name} has too many requests waiting", fix="try again later")
    if isinstance(error, ray.exceptions.RayError | RayServeException):
        cause = " ".join(str(error).split())[:200]
        return ReplicaLost(f"a replica of {name} was lost: {cause}", fix="it is replaced; try again")
    return error
