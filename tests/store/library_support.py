"""Builders for the rooms beside the journal."""

from typing import Any

from sqlalchemy import func, select

from coordinator.store.journal import Journal
from coordinator.store.records import Change, RunChange, RunRecord, RunStatus, ThreadChange
from manta.ids import ThreadId
from tests.store.support import claimed


async def finished(
    journal: Journal, status: RunStatus = "success", *changes: Change, **given: Any
) -> RunRecord:
    """A run that has ended, with what is committed beside its end."""
    run = await claimed(journal, **given)
    await journal.commit(run.id, run.epoch, [*changes, RunChange(status)])
    return await journal.get_run(run.tenant, run.id)


async def answered(
    journal: Journal, thread: ThreadId, question: str, answer: str, **values: Any
) -> RunRecord:
    """A run that ended well on a thread."""
    said = (message("user", question), message("assistant", answer))
    return await finished(journal, "success", ThreadChange(thread, values, said), thread=thread)


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def contents(record: Any) -> list[Any]:
    return [told["content"] for told in record.messages]


async def rows(journal: Journal, table: Any) -> int:
    query = select(func.count()).select_from(table)
    return await journal.threads._read(lambda c: c.execute(query).scalar_one())
