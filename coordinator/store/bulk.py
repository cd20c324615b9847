"""Statements for many rows at once, past SQLAlchemy's own binding: that would cost more than the database does.

Rows are dictionaries by column (or by the name of a bound parameter), with JSON values as text already.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Row, Table, bindparam
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.base import Executable

from coordinator.store.engine import dumps


def text_of(value: Any) -> str | None:
    """A value as it goes into a JSON column; None is NULL. Raises InvalidInput when it is not plain JSON."""
    return None if value is None else dumps(value)


class Lookup:
    """A query for rows by some column's values, compiled once for each number of values."""

    def __init__(self, build: Callable[[Sequence[Any]], Executable]) -> None:
        """`build` gets the bound parameters of the values."""
        self._build = build
        self._compiled: dict[tuple[str, int], tuple[str, Sequence[str] | None]] = {}

    def run(self, connection: Connection, values: Sequence[Any]) -> Sequence[Row[Any]]:
        """The rows, with plain values only: text and numbers."""
        sql, order = self._for(connection.dialect, len(values))
        named = {f"v{n}": value for n, value in enumerate(values)}
        given = named if order is None else tuple(named[name] for name in order)
        return connection.exec_driver_sql(sql, given).all()

    def _for(self, dialect: Dialect, count: int) -> tuple[str, Sequence[str] | None]:
        known = self._compiled.get((dialect.name, count))
        if known is None:
            compiled: Any = self._build([bindparam(f"v{n}") for n in range(count)]).compile(dialect=dialect)  # type: ignore[attr-defined]
            known = self._compiled[dialect.name, count] = (str(compiled), compiled.positiontup)
        return known


class Bulk:
    """One statement, compiled once for each database."""

    def __init__(self, build: Callable[[Any], Executable]) -> None:
        """`build` gets the module with the database's own `insert`."""
        self._build = build
        self._compiled: dict[str, tuple[str, Callable[[Mapping[str, Any]], Any] | None]] = {}

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether every row had its effect: those that a condition held back had none."""
        if not rows:
            return True
        sql, arranged = self._for(connection.dialect)
        values = list(rows) if arranged is None else [arranged(row) for row in rows]
        return connection.exec_driver_sql(sql, values).rowcount == len(rows)

    def _for(self, dialect: Dialect) -> tuple[str, Callable[[Mapping[str, Any]], Any] | None]:
        known = self._compiled.get(dialect.name)
        if known is None:
            compiled: Any = self._build(sqlite if dialect.name == "sqlite" else postgresql).compile(  # type: ignore[attr-defined]
                dialect=dialect
            )
            names = compiled.positiontup
            known = self._compiled[dialect.name] = (str(compiled), itemgetter(*names) if names else None)
        return known


def inserted(kind: Any, table: Table, but: Sequence[str] = ()) -> Insert:
    """An insert of all columns, each under its own name."""
    values = {column.name: bindparam(column.name, type_=column.type) for column in table.c}
    statement: Insert = kind.insert(table).values(
        {name: value for name, value in values.items() if name not in but}
    )
    return statement
