"""Whether a call fits into the budgets that cover it: what was used, what other calls may use, and its own."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, or_, select

from coordinator.store.schema import RESERVED_FIELDS, USAGE_FIELDS, calls
from manta.errors import BudgetExceeded
from manta.messages import CallIntent, Limit, Usage

_SUMS = [func.sum(calls.c[name]).label(name) for name in (*USAGE_FIELDS, *RESERVED_FIELDS)]


def reserved_values(reserve: Usage) -> dict[str, int]:
    """A reservation as its columns."""
    return {
        "reserved_tokens": reserve.input_tokens + reserve.output_tokens,
        "reserved_model_calls": reserve.model_calls,
        "reserved_tool_calls": reserve.tool_calls,
        "reserved_cost_micros": reserve.cost_micros,
    }


def require_within(
    connection: Connection, run: Row[Any], intent: CallIntent, held: Mapping[Any, int]
) -> None:
    """Checks each of the call's limits; `held` is what an earlier intent of the same call has reserved.

    Seconds are not looked at: a call has none of its own.

    Raises:
        BudgetExceeded: the call does not fit.
    """
    wanted = reserved_values(intent.reserve)
    for limit in intent.limits:
        counted = run._mapping if not limit.step else _subtree_sums(connection, run, limit.step)
        together = {name: int(counted[name] or 0) + wanted[name] - held[name] for name in RESERVED_FIELDS}
        over = limit.budget.exceeded_by(_with_reserved(counted, together))
        if over is not None:
            raise _exceeded(intent, limit, over)


def _with_reserved(counted: Mapping[Any, Any], reserved: Mapping[str, int]) -> Usage:
    used = {name: int(counted[name] or 0) for name in USAGE_FIELDS}
    return Usage(
        input_tokens=used["input_tokens"] + reserved["reserved_tokens"],
        output_tokens=used["output_tokens"],
        model_calls=used["model_calls"] + reserved["reserved_model_calls"],
        tool_calls=used["tool_calls"] + reserved["reserved_tool_calls"],
        cost_micros=used["cost_micros"] + reserved["reserved_cost_micros"],
    )


def _subtree_sums(connection: Connection, run: Row[Any], step: str) -> Mapping[Any, Any]:
    own = (calls.c.tenant == run.tenant, calls.c.run_id == run.id)
    query = select(*_SUMS).where(*own, in_subtree(calls.c.step, step, connection.dialect.name))
    return connection.execute(query).one()._mapping


def in_subtree(column: ColumnElement[str], step: str, dialect: str) -> ColumnElement[bool]:
    """Whether a key is `step` or lies beneath it: an item, a round, or a step of its sub-graph."""
    beneath = func.substr(column, 1, len(step) + 1).in_([step + mark for mark in "/[#"])
    if dialect != "sqlite":
        return or_(column == step, beneath)
    # All these begin with the key. Bytes compare in order here, so the index leads straight to them.
    return (column >= step) & (column < step + "~") & or_(column == step, beneath)


def _exceeded(intent: CallIntent, limit: Limit, over: str) -> BudgetExceeded:
    where = f"step {limit.step}" if limit.step else "the run"
    return BudgetExceeded(
        f"{intent.kind} call {intent.name!r} does not fit into the budget of {where}: {over}",
        fix="raise the budget and resume the run",
    )
