"""Gives room that deleted rows have left back to the disk."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from coordinator.store.engine import normalise_url, unavailable
from coordinator.store.schema import metadata

STEP_PAGES = 1000
_BUSY_TIMEOUT_S = 5.0
_INCREMENTAL = 2


def journal_file(url: str) -> Path | None:
    """The SQLite file of a journal; None for one on a server. Raises InvalidConfig for a URL of no use."""
    parsed = normalise_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def compact(url: str, *, rewrite: bool, pause_s: float = 0.0) -> int | None:
    """Bytes given back; None when a file could only be rewritten as a whole, and `rewrite` says not to.

    A file is made smaller step by step, so that others can write between; one that was begun without that
    ability has to be rewritten once, during which nobody can. PostgreSQL keeps most of the room for new rows.

    Raises:
        StorageUnavailable: the database cannot be reached, or somebody holds it for too long.
    """
    file = journal_file(url)
    try:
        if file is None:
            return _compact_server(normalise_url(url))
        return _compact_file(file, rewrite, pause_s)
    except (sqlite3.DatabaseError, OperationalError) as error:
        raise unavailable(normalise_url(url).render_as_string(hide_password=True), error) from error


def _compact_file(file: Path, rewrite: bool, pause_s: float) -> int | None:
    with closing(sqlite3.connect(file, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        before = _size(file)
        if _pragma(connection, "auto_vacuum") == _INCREMENTAL:
            _shrink(connection, pause_s)
        elif rewrite:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")
        elif _pragma(connection, "freelist_count"):
            return None
        # The pages lie in the log until then. Whoever reads meanwhile puts it off, and no harm is done.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return max(0, before - _size(file))


def _shrink(connection: sqlite3.Connection, pause_s: float) -> None:
    left = _pragma(connection, "freelist_count")
    while left:
        # As a script: a statement without columns is stepped once by `execute`, which frees one page.
        connection.executescript(f"PRAGMA incremental_vacuum({STEP_PAGES})")
        now_left = _pragma(connection, "freelist_count")
        if now_left >= left:
            return
        left = now_left
        time.sleep(pause_s)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _size(file: Path) -> int:
    both = (file, file.with_name(file.name + "-wal"))
    return sum(part.stat().st_size for part in both if part.exists())


def _compact_server(url: URL) -> int:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    names = list(metadata.tables)
    sizes = text(
        "SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0) FROM unnest(CAST(:names AS text[])) AS name"
    )
    try:
        with engine.connect() as connection:
            before = connection.execute(sizes, {"names": names}).scalar_one()
            # By name: other tables of the same database are not ours.
            connection.exec_driver_sql(f"VACUUM {', '.join(names)}")
            return max(0, int(before - connection.execute(sizes, {"names": names}).scalar_one()))
    finally:
        engine.dispose()
