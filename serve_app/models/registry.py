"""The registry of models, which the coordinator's journal keeps, as other processes reach it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.store.model_records import ArmTotals, Book, KeeperPlan
from serve_app.coordinators import AnyCoordinator


@dataclass(frozen=True, slots=True)
class Registry:
    """Picklable. Every method raises Unavailable while no coordinator answers."""

    coordinator: AnyCoordinator

    async def book(self, known: int) -> Book | None:
        book: Book | None = await self._ask("book", known)
        return book

    async def record(self, meter: str, totals: Sequence[ArmTotals]) -> None:
        await self._ask("record", meter, list(totals))

    async def plan(self) -> KeeperPlan:
        plan: KeeperPlan = await self._ask("plan")
        return plan

    async def activate(self, model: str, revision: int) -> None:
        await self._ask("activate", model, revision)

    async def fail(self, model: str, revision: int, error: str) -> None:
        await self._ask("fail", model, revision, error)

    async def retire(self, model: str, version: int) -> bool:
        return bool(await self._ask("retire", model, version))

    async def _ask(self, method: str, *arguments: Any) -> Any:
        return await self.coordinator.call("library", "models", method, *arguments)
