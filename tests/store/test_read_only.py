"""Reading a journal without touching it, on both databases."""

import pytest
from sqlalchemy import text

from coordinator.store.journal import Journal
from coordinator.store.read_only import reading
from coordinator.store.reads import read_calls, read_steps
from manta.errors import StorageUnavailable
from tests.store.support import Postgres, at_work, done, intent, outcome, scope


async def test_what_is_in_the_journal_is_read_as_it_was_when_reading_began(journal: Journal, url: str):
    run = await at_work(journal)
    await journal.begin_call(intent(scope(run)))
    with reading(url) as connection:
        (call,) = read_calls(connection, run.id, whole=True)
        assert (call.call.state, call.call.request) == ("intent", {"q": "x"})
        # The writer goes on, and is not seen.
        await journal.finish_call(outcome(scope(run), notes={"counts": {"a": 1}}))
        await journal.commit(run.id, run.epoch, [done(notes={"info": {}})])
        assert read_calls(connection, run.id, whole=True) == [call]
        assert [step.state for step in read_steps(connection, run.id)] == ["started"]
    with reading(url) as connection:
        (call,) = read_calls(connection, run.id, whole=True)
        assert (call.call.state, call.call.notes) == ("done", {"counts": {"a": 1}})
        assert [step.notes for step in read_steps(connection, run.id)] == [{"info": {}}]


async def test_nothing_can_be_written(journal: Journal, url: str):
    run = await at_work(journal)
    with pytest.raises(StorageUnavailable), reading(url) as connection:
        connection.execute(text("DELETE FROM steps"))
    assert [step.state for step in await journal.steps(run.id)] == ["started"]


def test_an_empty_database_is_no_journal_and_becomes_none(postgres: Postgres):
    empty = postgres.database()
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="has the form none"), reading(empty):
            pass
