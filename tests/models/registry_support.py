"""A registry and models of this process: what a book says answers, by its version."""

from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.store.model_records import ArmTotals, Book, ModelVersion, Route, Served, Sticky
from manta.clock import ManualClock
from manta.errors import CoordinatorUnavailable
from manta.model_settings import ModelSettings, RouterSettings
from serve_app.models.cache.levels import AnswerCache
from serve_app.models.platform_models import ServeModels
from tests.models.support import Told
from tests.tools.hashing_embedder import HashingEmbedder


def version(model: str, number: int, **settings: Any) -> ModelVersion:
    told = ModelSettings(**settings).model_dump(mode="json")
    return ModelVersion(model, number, told, "api", "", "ann", 0.0, up=True, down_at=None)


def route(model: str, weights: dict[int, int], sticky: Sticky = "run", **changes: Any) -> Route:
    told: dict[str, Any] = {"revision": 1, "state": "active", "why": "split", "error": "", **changes}
    return Route(
        model=model, weights=weights, sticky=sticky, created_by="", created_at=0, active_at=0, **told
    )


def served(model: str, weights: dict[int, int], sticky: Sticky = "run", **settings: Any) -> Served:
    return Served(
        model, route(model, weights, sticky), tuple(version(model, n, **settings) for n in sorted(weights))
    )


class LocalRegistry:
    """`away`: no coordinator answers."""

    def __init__(self, *models: Served) -> None:
        self.now = Book(1, models)
        self.asked = 0
        self.away = False
        self.told: dict[str, Sequence[ArmTotals]] = {}

    def change(self, *models: Served) -> None:
        self.now = Book(self.now.generation + 1, models)

    async def book(self, known: int) -> Book | None:
        self._look()
        return None if known == self.now.generation else self.now

    async def record(self, meter: str, totals: Sequence[ArmTotals]) -> None:
        self._look()
        self.told[meter] = totals

    def _look(self) -> None:
        self.asked += 1
        if self.away:
            raise CoordinatorUnavailable("away")


def platform(
    registry: Any,
    models: Mapping[tuple[str, int], Told],
    clock: ManualClock,
    routers: Mapping[str, RouterSettings] | None = None,
) -> ServeModels:
    def serving(name: str, number: int) -> Any:
        return models[name, number]

    return ServeModels(
        registry,
        "a",
        routers,
        embedder=HashingEmbedder(),
        answers=AnswerCache(clock),
        clock=clock,
        serving=serving,
    )
