"""The kept answers as one process has them: its own, and behind them those that all processes share."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from manta.clock import Clock, SystemClock
from manta.model_settings import CacheSettings
from serve_app.models.cache.shared import Guarded, SharedAnswers
from serve_app.models.cache.shelf import Kept, Shelves
from serve_app.models.metrics import NoteLook, unnoted

_MB = 1 << 20


@dataclass(slots=True)
class Looks:
    """How often answers were looked for. `shared_hits`: hits that only the second level had."""

    hits: int = 0
    misses: int = 0
    shared_hits: int = 0

    def note(self, found: Kept | None, *, shared: bool) -> None:
        self.hits += found is not None
        self.misses += found is None
        self.shared_hits += shared and found is not None


@dataclass(slots=True)
class Counts:
    """Of one model in this process. `kept`: answers; `embedder_failures`: questions whose meaning was not told."""

    exact: Looks = field(default_factory=Looks)
    semantic: Looks = field(default_factory=Looks)
    kept: int = 0
    embedder_failures: int = 0


class AnswerCache:
    """One for all models of a process.

    Args:
        shared: the second level, for models whose settings say so.
        note: told of every look, besides what is counted here.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        shared: SharedAnswers | None = None,
        note: NoteLook = unnoted,
    ) -> None:
        self._note = note
        self._clock = clock or SystemClock()
        self._shared = None if shared is None else Guarded(shared, self._clock)
        self._shelves = Shelves()
        self._counts: dict[str, Counts] = {}

    def counts(self, model: str) -> Counts:
        return self._counts.setdefault(model, Counts())

    def stats(self, model: str) -> dict[str, Any]:
        """Since this process began: looks, `exact` and `semantic`; answers `kept`, and those `evicted` for others;
        how many `answers` and `bytes` are here now; `shared_failures`, of all models together.
        """
        shelf = self._shelves.of(model)
        return {
            **dataclasses.asdict(self.counts(model)),
            "evicted": shelf.evicted,
            "answers": len(shelf),
            "bytes": shelf.bytes,
            "shared_failures": 0 if self._shared is None else self._shared.failures,
        }

    async def get(self, model: str, key: str, rules: CacheSettings) -> Kept | None:
        """The answer to an equal request. Waits for the second level only, for `shared.LOOK_S` at most."""
        found = self._shelves.of(model).get(key, self._clock.monotonic())
        second = self._second(rules) if found is None else None
        if second is not None:
            found = self._taken(model, await second.get(model, key), rules)
        self.counts(model).exact.note(found, shared=second is not None)
        self._note(model, "exact", hit=found is not None)
        return found

    async def near(
        self, model: str, scope: str, vector: bytes, threshold: float, rules: CacheSettings
    ) -> Kept | None:
        """The answer to a like question, see `Shelf.near`. Waits likewise."""
        found = self._shelves.of(model).near(scope, vector, threshold, self._clock.monotonic())
        second = self._second(rules) if found is None else None
        if second is not None:
            found = self._taken(model, await second.near(model, scope, vector, threshold), rules)
        self.counts(model).semantic.note(found, shared=second is not None)
        self._note(model, "semantic", hit=found is not None)
        return found

    def put(self, model: str, kept: Kept, rules: CacheSettings) -> None:
        if self._shelves.of(model).put(kept, _max_bytes(rules), self._clock.monotonic()):
            self.counts(model).kept += 1
        second = self._second(rules)
        if second is not None:
            second.put(model, kept, _max_bytes(rules))

    def forget(self, model: str) -> None:
        """All answers of a model that was removed, on both levels."""
        self._shelves.forget(model)
        if self._shared is not None:
            self._shared.forget(model)

    def _second(self, rules: CacheSettings) -> Guarded | None:
        return self._shared if rules.shared else None

    def _taken(self, model: str, kept: Kept | None, rules: CacheSettings) -> Kept | None:
        """What the second level had, now here too, for as long as it has there."""
        if kept is not None:
            self._shelves.of(model).put(kept, _max_bytes(rules), self._clock.monotonic())
        return kept


def _max_bytes(rules: CacheSettings) -> int:
    return int(rules.max_mb * _MB)
