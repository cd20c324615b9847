"""A run's journal grows with its steps and turns, not with their square."""

import hashlib
import itertools
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import ColumnElement, Table, Text, cast, create_engine, select

from agents.request_deltas import shorten
from coordinator.store.engine import normalise_url
from coordinator.store.journal import Journal
from coordinator.store.records import RunRecord
from coordinator.store.schema import tables_of_runs
from manta.clock import ManualClock
from manta.ids import RunId
from manta.messages import CallIntent
from tests.store.support import a_run, blank_journal, done, note, outcome, scope, started

SIZES = (30, 60, 120)
Work = Callable[[Journal, RunRecord, int], Awaitable[None]]


def text_of(n: int) -> str:
    """200 characters that no database can compress away."""
    return "".join(hashlib.sha256(f"{n} {part}".encode()).hexdigest() for part in range(4))[:200]


async def many_steps(journal: Journal, run: RunRecord, count: int) -> None:
    for n in range(count):
        key = f"work[{n}]"
        await journal.commit(run.id, 1, [started(key, input={"item": text_of(n)}), note("step_started")])
        await journal.commit(run.id, 1, [done(key, output=text_of(-n)), note("step_done")])


async def many_turns(journal: Journal, run: RunRecord, count: int) -> None:
    """A tool loop, which asks with all that was said before at every turn."""
    await journal.commit(run.id, 1, [started("loop")])
    here = scope(run, step="loop")
    body = {"model": "m", "messages": [{"role": "user", "content": "go"}]}
    earlier: dict[str, dict] = {}
    for n in range(count):
        request = shorten(body, earlier)
        earlier = {f"m{n}": body}
        await journal.begin_call(CallIntent(here, f"m{n}", "model", "m", text_of(n)[:64], request))
        await journal.finish_call(outcome(here, f"m{n}", response={"text": text_of(n)}))
        await journal.begin_call(CallIntent(here, f"t{n}", "tool", "search", text_of(n)[:64], {"q": n}))
        await journal.finish_call(outcome(here, f"t{n}", response={"found": text_of(-n)}))
        answers = [{"role": role, "content": text_of(n)} for role in ("assistant", "tool")]
        body = {**body, "messages": [*body["messages"], *answers]}
    await journal.commit(run.id, 1, [done("loop")])


def written(url: str, run: RunId) -> int:
    """Characters in all rows of the run."""
    engine = create_engine(normalise_url(url))
    with engine.connect() as connection:
        rows = [
            row
            for table in tables_of_runs()
            for row in connection.execute(select(*texts(table)).where(table.c.run_id == run))
        ]
    engine.dispose()
    return sum(len(value) for row in rows for value in row if value is not None)


def texts(table: Table) -> list[ColumnElement[str]]:
    return [cast(column, Text) for column in table.c]


def file_size(url: str) -> int:
    """Bytes of the file, without what is only waiting to be used again."""
    with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
        file.execute("VACUUM")
        [pages, each] = (file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    file.close()
    return int(pages * each)


@pytest.mark.parametrize("work", [many_steps, many_turns])
async def test_twice_the_work_takes_twice_the_room(url: str, clock: ManualClock, work: Work):
    journal = await Journal.open(url, clock)
    sizes = []
    for count in SIZES:
        record, _ = await journal.create_run(a_run(), "me")
        await work(journal, record, count)
        sizes.append(written(url, record.id))
    await journal.close()

    small, middle, large = sizes
    assert 1.9 < middle / small < 2.1, sizes
    assert 1.9 < large / middle < 2.1, sizes


@pytest.mark.parametrize("work", [many_steps, many_turns])
async def test_a_file_grows_with_what_is_in_it(tmp_path: Path, clock: ManualClock, work: Work):
    url = blank_journal(tmp_path / "journal.db")
    sizes = [file_size(url)]
    for count in (60, 120, 240):
        journal = await Journal.open(url, clock)
        record, _ = await journal.create_run(a_run(), "me")
        await work(journal, record, count)
        await journal.close()
        sizes.append(file_size(url))

    # Each run lies beside those before it.
    small, middle, large = (after - before for before, after in itertools.pairwise(sizes))
    assert 1.8 < middle / small < 2.2, sizes
    assert 1.8 < large / middle < 2.2, sizes
