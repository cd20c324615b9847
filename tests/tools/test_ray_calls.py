"""Calls of a named actor: what Ray's errors become."""

import asyncio
from typing import Any

import pytest
import ray.exceptions

from manta.errors import NotFound, Unavailable
from tools.ray_calls import NamedActor


class Method:
    """Its calls end one after the other as given."""

    def __init__(self, *ends: Any) -> None:
        self._ends = list(ends)
        self.calls = 0

    async def remote(self, *arguments: Any) -> Any:
        self.calls += 1
        end = self._ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end


class Actor:
    def __init__(self, method: Method) -> None:
        self.ask = method


def linked(monkeypatch: pytest.MonkeyPatch, *ends: Any) -> tuple[NamedActor, Method]:
    method = Method(*ends)
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: Actor(method))
    return NamedActor("somebody"), method


async def test_an_error_of_the_method_arrives_as_itself(monkeypatch: pytest.MonkeyPatch):
    error = ray.exceptions.RayTaskError("ask", "trace", NotFound("no such thing", fix="look"))
    link, _ = linked(monkeypatch, error)
    with pytest.raises(NotFound):
        await link.call("ask")


def cancelled(*, begun: bool) -> ray.exceptions.RayError:
    """What the caller sees of a call that Ray cancelled: in its queue, or while the actor was at it."""
    error = ray.exceptions.TaskCancelledError()
    if not begun:
        return error
    return ray.exceptions.RayTaskError("ask", "trace", error).as_instanceof_cause()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_call_that_ray_cancelled_is_made_again(monkeypatch: pytest.MonkeyPatch, begun: bool):
    link, method = linked(monkeypatch, cancelled(begun=begun), "answer")
    assert await link.call("ask") == "answer"
    assert method.calls == 2


@pytest.mark.parametrize("begun", [False, True])
async def test_a_caller_that_ray_cancels_with_its_call_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, begun: bool
):
    """The call's end comes first: its caller must not take it for a failure."""
    link, _ = linked(monkeypatch, *[cancelled(begun=begun) for _ in range(100)])
    asking = asyncio.create_task(link.call("ask", patience_s=60))
    await asyncio.sleep(0.02)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_one_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch):
    link, _ = linked(monkeypatch, ray.exceptions.ActorDiedError())
    with pytest.raises(Unavailable, match="somebody does not answer"):
        await link.call("ask", patience_s=0)
