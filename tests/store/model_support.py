"""Builders of what the tests of the registry write."""

from typing import Any

from coordinator.store.journal import Journal
from coordinator.store.model_records import KeeperPlan, Route
from manta.model_settings import ModelSettings


def settings(source: str = "a", **more: Any) -> dict[str, Any]:
    return ModelSettings(backend="sleep", source=source, **more).model_dump(mode="json")


async def a_model(journal: Journal, *sources: str) -> None:
    """Model `m`, its first version served, the others up."""
    for source in sources:
        await journal.models.add("m", settings(source))
    await activated(journal)


async def activated(journal: Journal) -> Route:
    """What the keeper does once everything runs."""
    (route,) = (await journal.models.plan()).pending
    await journal.models.activate(route.model, route.revision)
    found = (await journal.models.get(route.model)).route
    assert found is not None
    assert found.revision == route.revision
    return found


async def weights(journal: Journal) -> dict[str, dict[int, int]]:
    book = await journal.models.book()
    assert book is not None
    return {served.model: served.route.weights for served in book.models}


def deployed(plan: KeeperPlan) -> list[tuple[str, int]]:
    return [(version.model, version.version) for version in plan.up]
