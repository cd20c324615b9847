"""Items: values that outlive runs and threads, under a key in a namespace.

A namespace is a list of names, kept as JSON, so that no name can be mistaken for two. Prefixes and fields are
found by labels (see `library_schema`).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, Select, bindparam, delete, exists, select

from coordinator.store.bulk import Bulk, inserted
from coordinator.store.engine import dumps
from coordinator.store.library_records import ItemRecord
from coordinator.store.library_schema import item_labels, items
from coordinator.store.room import Room, encoded, require_object, require_page
from coordinator.store.rows import require_name
from manta.errors import InvalidInput, NotFound
from manta.ids import Tenant

Namespace: TypeAlias = tuple[str, ...]

MAX_DEPTH = 16
MAX_BYTES = 1 << 20
MAX_FIELDS = 1000

_WRITE = Bulk(
    lambda kind: (new := inserted(kind, items)).on_conflict_do_update(  # type: ignore[attr-defined]
        index_elements=["tenant", "id"],
        set_={"value": new.excluded.value, "updated_at": new.excluded.updated_at},  # type: ignore[attr-defined]
    )
)
_WRITE_LABELS = Bulk(lambda kind: inserted(kind, item_labels))
_FORGET_LABELS = delete(item_labels).where(
    item_labels.c.tenant == bindparam("of"), item_labels.c.item == bindparam("item")
)
_BEGAN = select(items.c.created_at).where(items.c.tenant == bindparam("of"), items.c.id == bindparam("item"))


class Items(Room):
    """Raises InvalidInput for a namespace that is not a list of up to 16 names, or a key that is no name."""

    async def put(
        self, tenant: Tenant, namespace: Sequence[str], key: str, value: Mapping[str, Any]
    ) -> ItemRecord:
        """Writes the item, or replaces it whole.

        Raises:
            InvalidInput: the value is not an object of plain JSON, of up to 1 MiB and 1,000 fields.
        """
        where, name = _namespace(namespace), require_name("a key", key)
        content = _content(value)
        now = self._clock.now()
        return await self._write(lambda c: _put(c, tenant, where, name, content, now))

    async def get(self, tenant: Tenant, namespace: Sequence[str], key: str) -> ItemRecord:
        """Raises NotFound."""
        where, name = _namespace(namespace), require_name("a key", key)
        return await self._read(lambda c: _get(c, tenant, where, name))

    async def delete(self, tenant: Tenant, namespace: Sequence[str], key: str) -> None:
        """Raises NotFound."""
        where, name = _namespace(namespace), require_name("a key", key)
        await self._write(lambda c: _delete(c, tenant, where, name))

    async def search(
        self,
        tenant: Tenant,
        prefix: Sequence[str] = (),
        filter: Mapping[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
    ) -> list[ItemRecord]:
        """Items in namespaces that begin with `prefix`, whose fields have exactly these values; the latest first."""
        require_page(limit, offset)
        wanted = [_field_label(name, value) for name, value in (filter or {}).items()]
        begins = _namespace(prefix)
        query = _within(select(items), tenant, begins)
        for label in wanted:
            query = query.where(_has_label(label))
        page = query.order_by(items.c.updated_at.desc(), items.c.id).limit(limit).offset(offset)
        return await self._read(lambda c: [_record(row) for row in c.execute(page)])

    async def namespaces(
        self,
        tenant: Tenant,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Namespace]:
        """The namespaces that hold items, in order; those deeper than `max_depth` are cut to it."""
        require_page(limit, offset)
        if max_depth is not None and max_depth < 1:
            raise InvalidInput("max_depth must be at least 1", fix="leave it out for whole namespaces")
        begins, ends = _namespace(prefix), _namespace(suffix)
        query = _within(select(items.c.namespace).distinct(), tenant, begins)
        found = await self._read(lambda c: [tuple(json.loads(text)) for text in c.execute(query).scalars()])
        return _cut(found, ends, max_depth)[offset : offset + limit]


def _put(
    connection: Connection, tenant: str, namespace: Namespace, key: str, value: dict[str, Any], now: float
) -> ItemRecord:
    item = _item(namespace, key)
    row: dict[str, Any] = {"tenant": tenant, "id": item, "namespace": json.dumps(namespace), "key": key}
    row |= {"value": dumps(value), "created_at": now, "updated_at": now}
    # First: whoever replaces the same item waits here until its labels are written.
    _WRITE.run(connection, [row])
    own = {"of": tenant, "item": item}
    connection.execute(_FORGET_LABELS, own)
    labels = {*_prefix_labels(namespace), *(_field_label(name, field) for name, field in value.items())}
    _WRITE_LABELS.run(
        connection, [{"tenant": tenant, "label": label, "item": item} for label in sorted(labels)]
    )
    began: float = connection.execute(_BEGAN, own).scalar_one()
    return ItemRecord(namespace, key, value, began, now)


def _get(connection: Connection, tenant: str, namespace: Namespace, key: str) -> ItemRecord:
    query = select(items).where(items.c.tenant == tenant, items.c.id == _item(namespace, key))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise _not_found(namespace, key)
    return _record(row)


def _delete(connection: Connection, tenant: str, namespace: Namespace, key: str) -> None:
    item = _item(namespace, key)
    # Locked first: an item that is being replaced gets its labels only after this.
    own = select(items.c.id).where(items.c.tenant == tenant, items.c.id == item).with_for_update()
    if connection.execute(own).first() is None:
        raise _not_found(namespace, key)
    connection.execute(_FORGET_LABELS, {"of": tenant, "item": item})
    connection.execute(delete(items).where(items.c.tenant == tenant, items.c.id == item))


def _within(query: Select[Any], tenant: str, prefix: Namespace) -> Select[Any]:
    query = query.where(items.c.tenant == tenant)
    return query.where(_has_label(_label("in", *prefix))) if prefix else query


def _has_label(label: str) -> Any:
    return exists().where(
        item_labels.c.tenant == items.c.tenant, item_labels.c.item == items.c.id, item_labels.c.label == label
    )


def _cut(found: Iterable[Namespace], suffix: Namespace, max_depth: int | None) -> list[Namespace]:
    ending = (space for space in found if space[len(space) - len(suffix) :] == suffix)
    return sorted({space[:max_depth] for space in ending})


def _record(row: Row[Any]) -> ItemRecord:
    return ItemRecord(tuple(json.loads(row.namespace)), row.key, row.value, row.created_at, row.updated_at)


def _namespace(parts: Sequence[str]) -> Namespace:
    if isinstance(parts, str) or len(parts) > MAX_DEPTH:
        raise InvalidInput(
            f"a namespace must be a list of at most {MAX_DEPTH} names", fix='send ["users", "42"]'
        )
    return tuple(require_name("a part of a namespace", part) for part in parts)


def _content(value: Mapping[str, Any]) -> dict[str, Any]:
    content = require_object("a value", value)
    if len(encoded("a value", content)) > MAX_BYTES or len(content) > MAX_FIELDS:
        raise InvalidInput(
            f"a value may have {MAX_BYTES >> 20} MiB of JSON and {MAX_FIELDS} fields",
            fix="split it over several keys, or keep it as a file",
        )
    return content


def _item(namespace: Namespace, key: str) -> str:
    return _label("item", namespace, key)


def _prefix_labels(namespace: Namespace) -> Iterable[str]:
    return (_label("in", *namespace[:depth]) for depth in range(1, len(namespace) + 1))


def _field_label(name: str, value: Any) -> str:
    return _label("field", name, value)


def _label(*entry: Any) -> str:
    return hashlib.sha256(encoded("a value", entry).encode()).hexdigest()


def _not_found(namespace: Namespace, key: str) -> NotFound:
    return NotFound(f"there is no item {key!r} in {'/'.join(namespace) or 'the root'!r}", fix="put it first")
