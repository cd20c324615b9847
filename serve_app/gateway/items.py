"""The store of the Agent Protocol: values under a namespace and a key, for every thread to use."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field
from typing_extensions import TypedDict

from coordinator.store.library_records import ItemRecord
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.body_types import WHOLE, Body, Limit, Name, Offset
from serve_app.gateway.deps import DeskDep
from serve_app.gateway.errors import READING, TAKING
from serve_app.gateway.repeats import gone
from serve_app.gateway.shapes import Stamp, stamp

router = APIRouter(tags=["store"], route_class=StrictRoute, responses=READING)

Namespace = Annotated[list[Name], Field(max_length=16)]


class StorePut(Body):
    namespace: Namespace
    key: Name
    value: dict[str, Any]


class StoreDelete(Body):
    namespace: Namespace = []
    key: Name


class StoreSearch(Body):
    """Entries of `filter` must all be in the value with exactly these values."""

    namespace_prefix: Namespace | None = None
    filter: dict[str, Any] | None = None
    limit: Limit = 10
    offset: Offset = 0


class NamespaceSearch(Body):
    prefix: Namespace | None = None
    suffix: Namespace | None = None
    max_depth: Annotated[int, Field(ge=1, le=16), WHOLE] | None = None
    """Longer ones are cut off behind so many parts."""
    limit: Limit = 100
    offset: Offset = 0


class ItemJson(TypedDict):
    """The protocol's `Item`."""

    namespace: list[str]
    key: str
    value: dict[str, Any]
    created_at: Stamp
    updated_at: Stamp


class ItemsJson(TypedDict):
    items: list[ItemJson]


@router.put("/store/items", status_code=204, response_class=Response, responses=TAKING)
async def put_item(body: StorePut, desk: DeskDep) -> Response:
    """Puts the value there, in place of one that was there before."""
    await desk.library("items", "put", tuple(body.namespace), body.key, body.value)
    return Response(status_code=204)


@router.get("/store/items")
async def get_item(
    desk: DeskDep,
    key: Annotated[Name, Query()],
    namespace: Annotated[list[Name], Query(max_length=16)] = [],  # noqa: B006 (FastAPI copies it)
) -> ItemJson:
    return _item(await desk.library("items", "get", tuple(namespace), key))


@router.delete("/store/items", status_code=204, response_class=Response, responses=TAKING)
async def delete_item(body: StoreDelete, desk: DeskDep) -> Response:
    await desk.library("items", "get", tuple(body.namespace), body.key)
    await gone(desk.library("items", "delete", tuple(body.namespace), body.key))
    return Response(status_code=204)


@router.post("/store/items/search", responses=TAKING)
async def search_items(body: StoreSearch, desk: DeskDep) -> ItemsJson:
    """Latest change first."""
    prefix = tuple(body.namespace_prefix or ())
    found = await desk.library("items", "search", prefix, body.filter or {}, body.limit, body.offset)
    return {"items": [_item(item) for item in found]}


@router.post("/store/namespaces", responses=TAKING)
async def list_namespaces(body: NamespaceSearch, desk: DeskDep) -> list[list[str]]:
    prefix, suffix = tuple(body.prefix or ()), tuple(body.suffix or ())
    found = await desk.library("items", "namespaces", prefix, suffix, body.max_depth, body.limit, body.offset)
    return [list(namespace) for namespace in found]


def _item(item: ItemRecord) -> ItemJson:
    return {
        "namespace": list(item.namespace),
        "key": item.key,
        "value": item.value,
        "created_at": stamp(item.created_at),
        "updated_at": stamp(item.updated_at),
    }
