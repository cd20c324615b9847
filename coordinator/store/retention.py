"""What goes after a while: finished runs, the wording of their calls, rows of coordinators that died.

In small transactions, so that live work goes on between them. What is gone stays gone: a sweep that was cut
off is made good by the next one.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    Text,
    and_,
    cast,
    delete,
    exists,
    extract,
    func,
    null,
    or_,
    select,
    update,
)

from coordinator.store.library_records import Swept
from coordinator.store.library_schema import thread_states
from coordinator.store.records import TERMINAL_STATUSES
from coordinator.store.room import Room
from coordinator.store.schema import (
    calls,
    coordinators,
    metadata,
    runs,
    sequences,
    steps,
    tables_of_runs,
    writers,
)
from manta.config import RetentionSettings

DAY_S = 86_400.0
BATCH = 2000
"""Rows that one transaction may delete, about; a run is not split."""
PAGE = 500
"""Runs that one look finds."""
# Overlapping: the digits before a name may belong to something else, as those of an escape do.
_SHA256 = re.compile("(?=([0-9a-f]{64}))")


class Retention(Room):
    """The rows. Files are `coordinator.stored_files`' affair."""

    async def sweep(
        self,
        now: float,
        settings: RetentionSettings,
        batch: int = BATCH,
        *,
        dry_run: bool = False,
        pause_s: float = 0.0,
    ) -> Swept:
        """Deletes what `settings` no longer keep; may run beside a working platform, and beside itself.

        Args:
            batch: rows in one transaction, about.
            dry_run: only counts.
            pause_s: seconds between transactions, in which others get theirs.
        """
        before_runs = _cutoff(now, settings.runs_days)
        before_calls = _cutoff(now, settings.calls_days)
        if dry_run:
            return await self._read(lambda c: _would_go(c, before_runs, before_calls, now))
        gone = cleared = 0
        if before_runs is not None:
            gone = await self._delete_runs(before_runs, batch, pause_s)
        if before_calls is not None:
            cleared = await self._clear_calls(before_calls, batch, pause_s)
        dead = await self._write(
            lambda c: sum(c.execute(delete(t).where(old)).rowcount for t, old in _dead(c, now))
        )
        return Swept(runs=gone, calls=cleared, processes=dead)

    async def named_files(self, files: Collection[str]) -> set[str]:
        """Of these files, by the SHA-256 of their content in hex, those that anything in the journal names."""
        return await self._read(lambda c: _named(c, files)) if files else set()

    async def has_had_runs(self) -> bool:
        """False for a journal that nobody has used yet."""
        last = select(sequences.c.last).where(sequences.c.name == "runs")
        return bool(await self._read(lambda c: c.execute(last).scalar()))

    async def _delete_runs(self, before: float, batch: int, pause_s: float) -> int:
        return await self._in_parts(_old(before), lambda part: _deleting(part, before), batch, pause_s)

    async def _clear_calls(self, before: float, batch: int, pause_s: float) -> int:
        wordy = _old(before).where(_has_wording())
        return await self._in_parts(wordy, lambda part: _clearing(part, before), batch, pause_s)

    async def _in_parts(
        self,
        query: Select[Any],
        operation: Callable[[Sequence[Row[Any]]], Callable[[Connection], int]],
        batch: int,
        pause_s: float,
    ) -> int:
        """Runs an operation on what the query finds, part by part; the sum of what it returns."""
        done, after = 0, 0
        while found := await self._read(_page(query, after)):
            # Also past those that somebody else holds now.
            after = found[-1].number
            for part in _parts(found, batch):
                done += await self._write(operation(part))
                await self._clock.sleep(pause_s)
        return done


def delete_runs(connection: Connection, tenant: str, run_ids: Collection[str]) -> None:
    """Deletes runs of a tenant with all that is theirs; what their threads keep of them stays."""
    left = (thread_states.c.tenant == tenant, thread_states.c.run_id.in_(run_ids))
    connection.execute(update(thread_states).where(*left).values(run_id=None))
    for table in tables_of_runs():
        connection.execute(delete(table).where(table.c.tenant == tenant, table.c.run_id.in_(run_ids)))
    connection.execute(delete(runs).where(runs.c.tenant == tenant, runs.c.id.in_(run_ids)))


def _page(query: Select[Any], after: int) -> Callable[[Connection], Sequence[Row[Any]]]:
    page = query.where(runs.c.number > after).limit(PAGE)
    return lambda connection: connection.execute(page).all()


def _deleting(part: Sequence[Row[Any]], before: float) -> Callable[[Connection], int]:
    def operation(connection: Connection) -> int:
        gone = 0
        for tenant, ids in _still_old(connection, part, before):
            delete_runs(connection, tenant, ids)
            gone += len(ids)
        return gone

    return operation


def _clearing(part: Sequence[Row[Any]], before: float) -> Callable[[Connection], int]:
    def operation(connection: Connection) -> int:
        cleared = 0
        for tenant, ids in _still_old(connection, part, before):
            own = (calls.c.tenant == tenant, calls.c.run_id.in_(ids), _goes())
            empty = update(calls).where(*own).values(request=null(), response=null(), notes=null())
            cleared += connection.execute(empty).rowcount
            noted = (steps.c.tenant == tenant, steps.c.run_id.in_(ids), _notes_go())
            connection.execute(update(steps).where(*noted).values(notes=null()))
        return cleared

    return operation


def _still_old(
    connection: Connection, part: Sequence[Row[Any]], before: float
) -> Iterator[tuple[str, list[str]]]:
    """The runs of each tenant, locked; one that was opened again meanwhile, or is being changed, is left out."""
    query = _old(before).where(runs.c.number.in_([run.number for run in part]))
    rows = connection.execute(query.with_for_update(skip_locked=True)).all()
    for tenant, group in groupby(sorted(rows, key=lambda run: str(run.tenant)), key=lambda run: run.tenant):
        yield tenant, [run.id for run in group]


def _old(before: float) -> Select[Any]:
    """Finished runs whose last change was before a time, the oldest first, and how many rows each has."""
    rows = (runs.c.last_seq + runs.c.last_entry + 1).label("rows")
    return (
        select(runs.c.number, runs.c.tenant, runs.c.id, rows)
        .where(runs.c.status.in_(TERMINAL_STATUSES), runs.c.updated_at < before)
        .order_by(runs.c.number)
    )


def _is_wordy() -> ColumnElement[bool]:
    return or_(calls.c.request.is_not(None), calls.c.response.is_not(None), calls.c.notes.is_not(None))


def _is_needed(step: ColumnElement[str], table: Table) -> ColumnElement[bool]:
    """A run that failed may be resumed, and then replays the calls of the steps that had not got done.

    `step` is the column of `table` with the key of the step.
    """
    its_run, its_step = runs.alias("its_run"), steps.alias("its_step")
    failed = select(its_run.c.id).where(
        its_run.c.tenant == table.c.tenant, its_run.c.id == table.c.run_id, its_run.c.status != "success"
    )
    open_ = select(its_step.c.key).where(
        its_step.c.tenant == table.c.tenant,
        its_step.c.run_id == table.c.run_id,
        its_step.c.key == step,
        its_step.c.state.not_in(("done", "skipped")),
    )
    return and_(exists(failed.correlate(table)), exists(open_.correlate(table)))


def _goes() -> ColumnElement[bool]:
    return and_(_is_wordy(), ~_is_needed(calls.c.step, calls))


def _has_wording() -> ColumnElement[bool]:
    its_call = select(calls.c.key).where(
        calls.c.tenant == runs.c.tenant, calls.c.run_id == runs.c.id, _goes()
    )
    its_notes = select(steps.c.key).where(
        steps.c.tenant == runs.c.tenant, steps.c.run_id == runs.c.id, _notes_go()
    )
    return or_(exists(its_call.correlate(runs)), exists(its_notes.correlate(runs)))


def _notes_go() -> ColumnElement[bool]:
    return and_(steps.c.notes.is_not(None), ~_is_needed(steps.c.key, steps))


def _would_go(
    connection: Connection, before_runs: float | None, before_calls: float | None, now: float
) -> Swept:
    def count(query: Any) -> int:
        return connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()

    gone = 0 if before_runs is None else count(_old(before_runs).order_by(None))
    cleared = 0
    if before_calls is not None:
        wordy = select(calls.c.key).where(_goes())
        own = and_(calls.c.tenant == runs.c.tenant, calls.c.run_id == runs.c.id)
        query = wordy.join(runs, own).where(
            runs.c.status.in_(TERMINAL_STATUSES), runs.c.updated_at < before_calls
        )
        # Those of the runs that go are gone with them.
        cleared = count(query if before_runs is None else query.where(runs.c.updated_at >= before_runs))
    dead = sum(count(select(table).where(old)) for table, old in _dead(connection, now))
    return Swept(runs=gone, calls=cleared, processes=dead)


def _dead(connection: Connection, now: float) -> list[tuple[Table, ColumnElement[bool]]]:
    """What processes leave that die, and when it is a day old."""
    left = [(coordinators, coordinators.c.lease_until < now - DAY_S)]
    if connection.dialect.name == "postgresql":
        left.append((writers, writers.c.seen_at < extract("epoch", func.now()) - DAY_S))
    return left


def _named(connection: Connection, files: Collection[str]) -> set[str]:
    """Looks at every JSON value there is: where a graph puts a file's name is its own affair."""
    unseen = set(files)
    in_pieces = connection.execution_options(yield_per=100)
    for column in (c for table in metadata.sorted_tables for c in table.c if isinstance(c.type, JSON)):
        told = cast(column, Text)
        query = select(told).where(told.regexp_match("[0-9a-f]{64}"))
        for content in in_pieces.execute(query).scalars():
            unseen.difference_update(_SHA256.findall(content))
    return set(files) - unseen


def _cutoff(now: float, days: float | None) -> float | None:
    return None if days is None else now - days * DAY_S


def _parts(found: Sequence[Row[Any]], batch: int) -> Iterator[Sequence[Row[Any]]]:
    """Runs that together have about `batch` rows, at least one at a time."""
    part: list[Row[Any]] = []
    size = 0
    for run in found:
        if part and size + run.rows > batch:
            yield part
            part, size = [], 0
        part.append(run)
        size += run.rows
    if part:
        yield part
