"""Calling a named Ray actor so that its death is an ordinary error and its own errors arrive as themselves."""

import asyncio
from typing import Any

import ray
import ray.exceptions

from manta.clock import Clock, SystemClock
from manta.errors import MantaError, Unavailable
from manta.patience import while_unavailable

NAMESPACE = "manta"


class NamedActor:
    """A detached actor, found by name when first called and again after it was replaced.

    Every call must be idempotent: it is repeated for 15 s while the actor restarts.
    """

    def __init__(
        self, name: str, *, error: type[Unavailable] = Unavailable, clock: Clock | None = None
    ) -> None:
        self._name = name
        self._error = error
        self._clock = clock or SystemClock()
        self._handle: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A handle is found anew wherever this arrives.
        return _restore, (self._name, self._error)

    async def call(self, method: str, *arguments: Any, patience_s: float = 15.0) -> Any:
        """Raises the method's own MantaError, or the Unavailable given at construction."""
        return await while_unavailable(lambda: self._once(method, arguments), self._clock, patience_s)

    async def _once(self, method: str, arguments: tuple[Any, ...]) -> Any:
        try:
            if self._handle is None:
                # A blocking call to Ray's control service.
                self._handle = await asyncio.to_thread(ray.get_actor, self._name, namespace=NAMESPACE)
            return await getattr(self._handle, method).remote(*arguments)
        except ray.exceptions.TaskCancelledError:
            # Ray cancels the calls of a task a moment before the task itself, so that the end of this one is on its
            # way; with none there is an answer at the next attempt. If the call had begun, this is a RayTaskError too.
            raise self._error(f"a call of {self._name} was cancelled", fix="try again") from None
        except ray.exceptions.RayTaskError as error:
            raise unwrap(error) from None
        except (ValueError, ray.exceptions.RayActorError) as error:
            self._handle = None
            cause = " ".join(str(error).split())[:200]
            raise self._error(
                f"{self._name} does not answer: {cause}", fix="`manta status` shows its state"
            ) from None

    def tell(self, method: str, *arguments: Any) -> None:
        """Send without waiting for an answer; lost if the actor is not known or not there just now."""
        if self._handle is None:
            return
        try:
            getattr(self._handle, method).remote(*arguments)
        except ray.exceptions.RayActorError:
            self._handle = None


def _restore(name: str, error: type[Unavailable]) -> NamedActor:
    return NamedActor(name, error=error)


def own_error(error: Exception) -> Exception | None:
    """What a remote method raised; None where Ray ended the call.

    A call that Ray cancelled after it had begun looks like both.
    """
    if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(
        error, ray.exceptions.TaskCancelledError
    ):
        return unwrap(error)
    return None


def unwrap(error: ray.exceptions.RayTaskError) -> Exception:
    """The MantaError that a remote method raised, or one that tells of another exception there."""
    cause = error.cause
    if isinstance(cause, MantaError):
        return cause
    return MantaError(f"{type(cause).__name__}: {cause}", fix="see the logs", code="internal_error")
