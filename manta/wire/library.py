"""Schedules, and the items of the store."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from manta.messages import to_json
from manta.wire.call import Call, given, nothing, once, part
from manta.wire.values import Item, Schedule, item_of, schedule_of


def create_schedule(
    graph: str, run_input: Any, cron: str, timezone: str, metadata: Mapping[str, Any] | None, enabled: bool
) -> Call[Schedule]:
    body = {
        "graph": graph,
        "input": to_json(run_input),
        "cron": cron,
        "timezone": timezone,
        "metadata": dict(metadata or {}),
        "enabled": enabled,
    }
    return Call("POST", "/schedules", _schedule, json=body, headers=once(), repeatable=True)


def schedules(graph: str | None, limit: int, offset: int) -> Call[Sequence[Schedule]]:
    params = given(graph=graph, limit=limit, offset=offset)
    return Call(
        "GET", "/schedules", lambda r: [schedule_of(s) for s in r.json()], params=params, repeatable=True
    )


def get_schedule(schedule_id: str) -> Call[Schedule]:
    return Call("GET", f"/schedules/{part(schedule_id)}", _schedule, repeatable=True)


def patch_schedule(schedule_id: str, changes: Mapping[str, Any]) -> Call[Schedule]:
    body = to_json(dict(changes))
    return Call("PATCH", f"/schedules/{part(schedule_id)}", _schedule, json=body, repeatable=True)


def delete_schedule(schedule_id: str) -> Call[None]:
    return Call("DELETE", f"/schedules/{part(schedule_id)}", nothing)


def put_item(namespace: Sequence[str], key: str, value: Mapping[str, Any]) -> Call[None]:
    body = {"namespace": list(namespace), "key": key, "value": to_json(dict(value))}
    return Call("PUT", "/store/items", nothing, json=body, repeatable=True)


def get_item(namespace: Sequence[str], key: str) -> Call[Item]:
    params = {"key": key, "namespace": list(namespace)}
    return Call("GET", "/store/items", lambda r: item_of(r.json()), params=params, repeatable=True)


def delete_item(namespace: Sequence[str], key: str) -> Call[None]:
    return Call("DELETE", "/store/items", nothing, json={"namespace": list(namespace), "key": key})


def search_items(
    prefix: Sequence[str], wanted: Mapping[str, Any] | None, limit: int, offset: int
) -> Call[Sequence[Item]]:
    body = given(
        namespace_prefix=list(prefix), filter=dict(wanted) if wanted else None, limit=limit, offset=offset
    )
    return Call(
        "POST",
        "/store/items/search",
        lambda r: [item_of(i) for i in r.json()["items"]],
        json=body,
        repeatable=True,
    )


def namespaces(
    prefix: Sequence[str], suffix: Sequence[str], max_depth: int | None, limit: int, offset: int
) -> Call[Sequence[tuple[str, ...]]]:
    body = given(prefix=list(prefix), suffix=list(suffix), max_depth=max_depth, limit=limit, offset=offset)
    return Call(
        "POST",
        "/store/namespaces",
        lambda r: [tuple(n) for n in r.json()],
        json=body,
        repeatable=True,
    )


def _schedule(response: httpx.Response) -> Schedule:
    return schedule_of(response.json())
