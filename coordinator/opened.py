"""The journal in a process of its own: beside a running platform, or before the first one."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from coordinator.store.compaction import journal_file
from coordinator.store.journal import Journal
from manta.clock import SystemClock
from manta.config import Settings
from manta.errors import NotFound


@asynccontextmanager
async def opened_journal(settings: Settings, *, may_be_new: bool) -> AsyncGenerator[Journal]:
    """The journal of the settings, closed in the end.

    Raises:
        NotFound: there is none yet, and it may not be new.
        StorageUnavailable: it cannot be opened.
    """
    file = journal_file(settings.journal_url)
    if file is not None and not file.exists():
        if not may_be_new:
            raise NotFound(f"there is no journal at {file}", fix="check --home, or MANTA_STORE_URL")
        if file.parent == settings.home:
            settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    journal = await Journal.open(settings.journal_url, SystemClock())
    try:
        yield journal
    finally:
        await journal.close()
