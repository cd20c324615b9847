"""What a load costs: a rate named in the question, priced by the table's own columns."""

from collections.abc import Callable, Sequence

from agents.phrases import plain, short_time, span
from agents.programs import CHART, Computation, Output, program
from agents.table_profile import (
    ColumnProfile,
    Load,
    Price,
    TableProfile,
    Throughput,
    horizon_in,
    load_in,
    price_of,
    same_work,
    throughput_of,
)

_NAMED = 10
"""Options that get a statement of their own; the table has them all."""


def load_cost(question: str, table: TableProfile, labels: Sequence[ColumnProfile]) -> Computation | None:
    """The cost of the load for each row, and the instances it takes; None when the question or the table has no such.

    A price per amount of work costs the same on any number of instances; a price per time is paid for each.
    """
    load = load_in(question)
    if load is None:
        return None
    speeds = [t for t in map(throughput_of, table.measures) if t and same_work(t.work, load.work)]
    prices = [p for p in map(price_of, table.measures) if p]
    by_work = [p for p in prices if p.work and same_work(p.work, load.work)]
    by_time = [p for p in prices if not p.work]
    speed = speeds[0] if speeds else None
    if by_work:
        return _cost_by_work(table, labels, load, horizon_in(question), by_work[0], speed)
    if by_time and speed:
        return _cost_by_time(table, labels, load, horizon_in(question), by_time[0], speed)
    return None


def _cost_by_work(
    table: TableProfile,
    labels: Sequence[ColumnProfile],
    load: Load,
    horizon: tuple[str, int],
    price: Price,
    speed: Throughput | None,
) -> Computation:
    name, length = horizon
    sign = price.column.sign
    code = f"""
# {load.number:g} {load.work}s every {load.seconds} s, for one {name} of {length} s; the price is for {price.amount:g}.
units = {load.number!r} * {length} / {load.seconds}
rows = []
for i, price in enumerate(table[{price.column.name!r}]):
    if price is None:
        continue
    row = {{"label": label(i), "cost_low": tidy(units / {price.amount!r} * price.low)}}
    row["cost_high"] = tidy(units / {price.amount!r} * price.high)
{_instances(load, speed)}
    rows.append(row)
result = {{"load": tidy({load.number!r}), "units": tidy(units), "rows": rows}}
"""
    title = f"Cost per {name} of {plain(load.number)} {load.work}s/{short_time(load)}"
    return Computation(
        title,
        program(table, labels, code, _cost_chart(title, name, sign)),
        _tell_cost(load, horizon, price),
    )


def _cost_by_time(
    table: TableProfile,
    labels: Sequence[ColumnProfile],
    load: Load,
    horizon: tuple[str, int],
    price: Price,
    speed: Throughput | None,
) -> Computation:
    name, length = horizon
    code = f"""
# {load.number:g} {load.work}s every {load.seconds} s; paid by {price.seconds} s, one {name} being {length} s.
rows = []
for i, price in enumerate(table[{price.column.name!r}]):
    row = {{"label": label(i)}}
{_instances(load, speed)}
    if price is None or row.get("instances_low") is None:
        continue
    row["cost_low"] = tidy(row["instances_low"] * price.low * {length} / {price.seconds})
    row["cost_high"] = tidy(row["instances_high"] * price.high * {length} / {price.seconds})
    rows.append(row)
result = {{"load": tidy({load.number!r}), "units": tidy({load.number!r} * {length} / {load.seconds}), "rows": rows}}
"""
    title = f"Cost per {name} of {plain(load.number)} {load.work}s/{short_time(load)}"
    chart = _cost_chart(title, name, price.column.sign)
    return Computation(title, program(table, labels, code, chart), _tell_cost(load, horizon, price))


def _instances(load: Load, speed: Throughput | None) -> str:
    if speed is None:
        return ""
    # The small term keeps a quotient that is whole but for rounding from costing one instance more.
    lines = f"""
speed = table[{speed.column.name!r}][i]
if speed is not None and speed.low > 0:
    row["instances_low"] = math.ceil({load.per_second!r} / (speed.high / {speed.seconds}) - 1e-9)
    row["instances_high"] = math.ceil({load.per_second!r} / (speed.low / {speed.seconds}) - 1e-9)
"""
    return "\n".join("    " + line for line in lines.strip().splitlines())


def _cost_chart(title: str, horizon: str, sign: str) -> str:
    axis = f"cost per {horizon}" + (f" ({sign})" if sign else "")
    return (
        f"bars({CHART!r}, {title!r}, [r['label'] for r in rows], [r['cost_low'] for r in rows],\n"
        f"     [r['cost_high'] for r in rows], axis={axis!r}, prefix={sign!r})"
    )


def _tell_cost(load: Load, horizon: tuple[str, int], price: Price) -> Callable[[Output], list[str]]:
    sign, name = price.column.sign, horizon[0]

    def tell(output: Output) -> list[str]:
        rows = sorted(output["rows"], key=lambda row: row["cost_low"] + row["cost_high"])
        if not rows:
            return []
        told = []
        for row in output["rows"][:_NAMED]:
            need = span(row, "instances", "")
            behind = f", with {need} instance{'' if need == '1' else 's'} to carry the load" if need else ""
            told.append(
                f"{row['label']}: {span(row, 'cost', sign)} per {name} at {plain(output['load'])} "
                f"{load.work}s/{short_time(load)}{behind}."
            )
        if len(rows) > 1:
            told.append(
                f"The cheapest is {rows[0]['label']} ({span(rows[0], 'cost', sign)} per {name}), "
                f"the dearest {rows[-1]['label']} ({span(rows[-1], 'cost', sign)})."
            )
        counted = f", each counted as one {price.work}" if price.work and price.work != load.work else ""
        told.append(f"The load comes to {plain(output['units'])} {load.work}s per {name}{counted}.")
        return told

    return tell
