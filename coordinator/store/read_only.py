"""Reading a journal without touching it: nothing is created, migrated or locked, a platform may run meanwhile."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError

from coordinator.store.engine import normalise_url, unavailable
from manta.errors import NotFound, StorageUnavailable

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_S = 5.0


@contextmanager
def reading(url: str, *, any_version: bool = False) -> Iterator[Connection]:
    """A connection that sees the journal as it is now, and goes on seeing that.

    Args:
        any_version: also one that another version wrote, or a database that is no journal yet.

    Raises:
        NotFound: there is no journal file.
        StorageUnavailable: it cannot be read, or was written by another version.
        InvalidConfig: no journal can live at this URL.
    """
    parsed = normalise_url(url)
    name = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() == "sqlite":
        engine = _sqlite(Path(str(parsed.database)))
    else:
        engine = create_engine(parsed, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            if not any_version:
                _require_this_version(connection, name)
            yield connection
    except DBAPIError as error:
        raise unavailable(name, error) from error
    finally:
        engine.dispose()


def _sqlite(file: Path) -> Engine:
    if not file.is_file():
        raise NotFound(f"there is no journal at {file}", fix="check --home, or MANTA_STORE_URL")
    address = f"file:{quote(str(file))}?mode=ro"
    return create_engine(
        "sqlite+pysqlite://",
        creator=lambda: sqlite3.connect(
            address, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        ),
    )


def _require_this_version(connection: Connection, name: str) -> None:
    found = MigrationContext.configure(connection).get_current_revision()
    ours = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    if found != ours:
        raise StorageUnavailable(
            f"the journal at {name} has the form {found or 'none'}, this version reads {ours}",
            fix="start the platform of this version once, or use the version that wrote it",
        )
