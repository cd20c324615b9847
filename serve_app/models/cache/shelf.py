"""Kept answers in memory: bounded in bytes and in time, fair between tenants. Time is an argument."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from manta.ids import Tenant
from serve_app.models.cache.neighbours import Neighbours

ROW_BYTES = 512
"""What a row takes besides its answer and its vector, about."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer for a key. `ttl_s`: seconds that it may still be given.

    `scope` and `vector`: where like questions look for it, and its own question's meaning; float32, as bytes. Empty:
    nowhere.
    """

    tenant: Tenant
    key: str
    answer: bytes
    ttl_s: float
    scope: str = ""
    vector: bytes = b""

    @property
    def size(self) -> int:
        return ROW_BYTES + len(self.answer) + len(self.vector)


@dataclass(frozen=True, slots=True)
class _Row:
    kept: Kept
    expires: float


class Shelf:
    """The answers of one model.

    Where there is no room, the tenant that holds most gives up what it has not used for longest: so nobody loses a
    thing to others while it holds less than an equal share.
    """

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._used: dict[Tenant, OrderedDict[str, None]] = {}
        """Each tenant's keys, the longest unused first."""
        self._bytes: dict[Tenant, int] = {}
        self._scopes: dict[str, Neighbours] = {}
        self.bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Kept]:
        return (row.kept for row in self._rows.values())

    def get(self, key: str, now: float) -> Kept | None:
        row = self._rows.get(key)
        if row is None:
            return None
        if row.expires <= now:
            self._remove(key)
            return None
        self._used[row.kept.tenant].move_to_end(key)
        return replace(row.kept, ttl_s=row.expires - now)

    def near(self, scope: str, vector: bytes, threshold: float, now: float) -> Kept | None:
        """The answer to the question of this scope that is most like this one, if it is so like."""
        neighbours = self._scopes.get(scope)
        if neighbours is None:
            return None
        for key in [key for key in neighbours if self._rows[key].expires <= now]:
            self._remove(key)
        found = neighbours.nearest(vector, threshold)
        return None if found is None else self.get(found, now)

    def put(self, kept: Kept, max_bytes: int, now: float) -> bool:
        """Whether it is there afterwards. It takes the place of what was kept for its key."""
        self._remove(kept.key)
        if kept.size > max_bytes:
            return False
        self._add(kept, now)
        while self.bytes > max_bytes:
            # Of equal ones whoever has come just now.
            most = max(self._bytes, key=lambda tenant: (self._bytes[tenant], tenant == kept.tenant))
            self._evict(next(iter(self._used[most])))
        return kept.key in self._rows

    def _add(self, kept: Kept, now: float) -> None:
        if kept.scope:
            neighbours = self._scopes.setdefault(kept.scope, Neighbours())
            if (oldest := neighbours.to_make_room()) is not None:
                self._evict(oldest)
            # The scope may have gone with the last in it.
            self._scopes.setdefault(kept.scope, neighbours).add(kept.key, kept.vector)
        self._rows[kept.key] = _Row(kept, now + kept.ttl_s)
        self._used.setdefault(kept.tenant, OrderedDict())[kept.key] = None
        self._bytes[kept.tenant] = self._bytes.get(kept.tenant, 0) + kept.size
        self.bytes += kept.size

    def _evict(self, key: str) -> None:
        self._remove(key)
        self.evicted += 1

    def _remove(self, key: str) -> None:
        row = self._rows.pop(key, None)
        if row is None:
            return
        kept = row.kept
        self.bytes -= kept.size
        self._bytes[kept.tenant] -= kept.size
        del self._used[kept.tenant][key]
        if not self._used[kept.tenant]:
            del self._used[kept.tenant], self._bytes[kept.tenant]
        if kept.scope and not self._scopes[kept.scope].remove(key):
            del self._scopes[kept.scope]


class Shelves:
    """A shelf for each model."""

    def __init__(self) -> None:
        self._shelves: dict[str, Shelf] = {}

    def of(self, model: str) -> Shelf:
        return self._shelves.setdefault(model, Shelf())

    def forget(self, model: str) -> None:
        self._shelves.pop(model, None)
