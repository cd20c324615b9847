"""Threads: conversations over runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from manta.wire.call import Call, given, nothing, once, part
from manta.wire.values import Thread, ThreadState, thread_of, thread_state_of


def create(thread_id: str, metadata: Mapping[str, Any] | None, exist_ok: bool) -> Call[Thread]:
    if_exists = "do_nothing" if exist_ok else "raise"
    body = {"thread_id": thread_id, "metadata": dict(metadata or {}), "if_exists": if_exists}
    return Call("POST", "/threads", _thread, json=body, headers=once(), repeatable=True)


def get(thread_id: str) -> Call[Thread]:
    return Call("GET", f"/threads/{part(thread_id)}", _thread, repeatable=True)


def search(
    metadata: Mapping[str, Any] | None,
    values: Mapping[str, Any] | None,
    status: str | None,
    limit: int,
    offset: int,
) -> Call[Sequence[Thread]]:
    body = given(metadata=metadata, values=values, status=status, limit=limit, offset=offset)
    return Call(
        "POST", "/threads/search", lambda r: [thread_of(t) for t in r.json()], json=body, repeatable=True
    )


def history(thread_id: str, limit: int, before: str | None) -> Call[Sequence[ThreadState]]:
    return Call(
        "GET",
        f"/threads/{part(thread_id)}/history",
        lambda r: [thread_state_of(s) for s in r.json()],
        params=given(limit=limit, before=before),
        repeatable=True,
    )


def patch(
    thread_id: str,
    metadata: Mapping[str, Any] | None,
    values: Mapping[str, Any] | None,
    messages: Sequence[Mapping[str, Any]] | None,
    checkpoint: str | None,
) -> Call[Thread]:
    at = None if checkpoint is None else {"checkpoint_id": checkpoint}
    told = None if messages is None else [dict(message) for message in messages]
    body = given(metadata=metadata, values=values, messages=told, checkpoint=at)
    path = f"/threads/{part(thread_id)}"
    return Call("PATCH", path, _thread, json=body, headers=once(), repeatable=True)


def copy(thread_id: str) -> Call[Thread]:
    return Call("POST", f"/threads/{part(thread_id)}/copy", _thread, headers=once(), repeatable=True)


def delete(thread_id: str) -> Call[None]:
    return Call("DELETE", f"/threads/{part(thread_id)}", nothing)


def _thread(response: httpx.Response) -> Thread:
    return thread_of(response.json())
