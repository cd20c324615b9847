"""The models of the settings file, made known to the registry when a platform starts."""

import asyncio

from coordinator.opened import opened_journal
from coordinator.store.model_records import Book
from manta.config import Settings


def declare_models(settings: Settings, *, serving: bool) -> Book:
    """All models that answer from now on: those of the file, and those that were added while running.

    `serving`: a platform is at work, so that what is changed waits until it is deployed.

    Raises StorageUnavailable: the journal cannot be opened.
    """
    return asyncio.run(_declared(settings, serving))


async def _declared(settings: Settings, serving: bool) -> Book:
    declared = {name: model.model_dump(mode="json") for name, model in settings.models.items()}
    async with opened_journal(settings, may_be_new=True) as journal:
        return await journal.models.declare(declared, serving)
