"""Opening the database: SQLite or PostgreSQL, set up so that a commit is durable, its tables up to date.

`open_storage` either returns a storage that is ready or raises; it never leaves one half open.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)

from manta.errors import InvalidConfig, InvalidInput, StorageUnavailable

T = TypeVar("T")

READERS = 4
POSTGRES_RETRY_DELAYS: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 1.6, 1.6)
"""Seconds between tries: a restart of the server is waited out, an outage is reported after six seconds."""

_SQLITE_OPEN_DELAYS: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
_BUSY_TIMEOUT_S = 5.0
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK_KEY = 0x6D616E7461
# Alembic keeps its context in module globals: one upgrade at a time in a process.
_MIGRATING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Storage:
    """An open database. On PostgreSQL both engines are the same; on SQLite `write` has one connection.

    Setting `stop` ends the waiting between retries.
    """

    write: Engine
    read: Engine
    name: str
    retry_delays: tuple[float, ...]
    stop: threading.Event

    def retrying(self, attempt: Callable[[], T]) -> T:
        """`attempt` until it works, a storage failure lasts too long, or it fails on its own account.

        Raises:
            StorageUnavailable: the database cannot be used now.
        """
        for delay in (*self.retry_delays, None):
            try:
                return attempt()
            except DBAPIError as error:
                if not is_storage_failure(error):
                    raise
                if delay is None or self.stop.wait(delay):
                    raise unavailable(self.name, error) from error
        raise AssertionError("the last try returns or raises")

    def dispose(self) -> None:
        self.read.dispose()
        self.write.dispose()


def is_storage_failure(error: BaseException) -> bool:
    """Whether the database failed (lost, locked, full, damaged), as opposed to one statement being wrong."""
    own_fault = (IntegrityError, DataError, ProgrammingError, NotSupportedError)
    return isinstance(error, DBAPIError) and not isinstance(error, own_fault)


def unavailable(name: str, error: Exception) -> StorageUnavailable:
    cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return StorageUnavailable(
        f"the journal at {name} cannot be used: {cause}",
        fix="check that the database runs and that its disk has space; the request can be repeated",
    )


def normalise_url(url: str) -> URL:
    """The URL with the driver Manta has.

    Raises:
        InvalidConfig: it is not a URL of a SQLite file or a PostgreSQL database.
    """
    fix = "use sqlite:////path/to/journal.db or postgresql://user@host/database"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidConfig("the journal's URL cannot be read", fix=fix) from error
    kind = parsed.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise InvalidConfig(f"the journal cannot live in {kind!r}", fix=fix)
    if parsed.database in (None, "", ":memory:"):
        raise InvalidConfig("a journal in memory would be lost with the process", fix=fix)
    return parsed.set(drivername="sqlite+pysqlite")


def open_storage(url: str, retry_delays: tuple[float, ...] | None = None) -> Storage:
    """Connects, and brings the tables to the newest revision under a lock.

    Raises:
        InvalidConfig: the URL is of no use.
        StorageUnavailable: the database cannot be reached or written now.
    """
    parsed = normalise_url(url)
    on_sqlite = parsed.get_backend_name() == "sqlite"
    name = parsed.render_as_string(hide_password=True)
    if on_sqlite:
        write, read = _sqlite_engines(parsed)
    else:
        write = read = _postgres_engine(parsed)
    # Two processes that open a new SQLite file at once may find it locked while one turns WAL on.
    opening_delays = _SQLITE_OPEN_DELAYS if on_sqlite else POSTGRES_RETRY_DELAYS
    if retry_delays is not None:
        opening_delays = retry_delays
    opening = Storage(write, read, name, opening_delays, threading.Event())
    try:
        opening.retrying(lambda: _upgrade(write))
    except CommandError as error:
        opening.dispose()
        raise StorageUnavailable(
            f"the journal at {name} was written by another version: {error}",
            fix="start the version of Manta that wrote it, or a newer one",
        ) from error
    except BaseException:
        opening.dispose()
        raise
    # SQLite waits for a lock by itself, and a full disk is not cured by waiting.
    delays = retry_delays if retry_delays is not None else () if on_sqlite else POSTGRES_RETRY_DELAYS
    return Storage(write, read, name, delays, opening.stop)


# A value that contains itself ends in a RecursionError.
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


def dumps(value: Any) -> str:
    """JSON as the journal keeps it. Raises InvalidInput."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"a value is not plain JSON: {error}", fix="journal plain JSON values") from error


def _sqlite_engines(url: URL) -> tuple[Engine, Engine]:
    try:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unavailable(url.render_as_string(hide_password=True), error) from error
    arguments: dict[str, Any] = {"connect_args": {"timeout": _BUSY_TIMEOUT_S}, "json_serializer": dumps}
    write = create_engine(url, pool_size=1, max_overflow=0, **arguments)
    read = create_engine(url, pool_size=READERS, max_overflow=0, **arguments)
    # A new file can later be made smaller step by step; one that is there stays as it is.
    pragmas = ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
    _prepare_sqlite(write, pragmas, "BEGIN IMMEDIATE")
    _prepare_sqlite(read, ("query_only=ON",), "BEGIN")
    return write, read


def _prepare_sqlite(engine: Engine, pragmas: tuple[str, ...], begin: str) -> None:
    def connected(connection: Any, _: object) -> None:
        # The driver's own implicit BEGIN comes too late and is never IMMEDIATE.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    def started(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", started)


def _postgres_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=READERS + 1,
        max_overflow=0,
        json_serializer=dumps,
        connect_args={"connect_timeout": 5, "application_name": "manta-journal"},
    )

    def connected(connection: Any, _: object) -> None:
        # A writer that vanished without a word must not hold its locks for hours.
        connection.execute("SET idle_in_transaction_session_timeout = '30s'")
        connection.execute("SET lock_timeout = '10s'")
        # A server may be set to acknowledge before it has flushed; stricter settings stay.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.commit()

    event.listen(engine, "connect", connected)
    return engine


def _upgrade(engine: Engine) -> None:
    with engine.begin() as connection:
        # SQLite is locked by BEGIN IMMEDIATE already.
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK_KEY})
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        with _MIGRATING:
            command.upgrade(config, "head")
