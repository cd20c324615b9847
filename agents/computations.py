"""Which computations suit a question and a table, and the Python that does them.

A choice is made from names, kinds and the question's words; every number is left to the code, which runs in
the sandbox and prints one JSON line. Statements are made from that line alone.
"""

import re
from collections.abc import Sequence

from agents.cost_at_load import load_cost
from agents.phrases import amount, axis_name, measure_name, plain, span, title_name
from agents.programs import CHART, Computation, Output, bar_chart, program
from agents.table_profile import (
    NAMED,
    ColumnProfile,
    TableProfile,
    group_columns,
    label_columns,
    ranked,
    relevance,
)

MAX_COMPUTATIONS = 4
_NAMED = 5
"""Rows or groups a statement names; the table below it has them all."""
_ABOUT_TIME = re.compile(
    r"trend|over time|chang|grow|develop|since|per (?:day|month|year)|month|year|season", re.I
)
_ABOUT_BOTH = re.compile(r"relat|correl|depend|affect|influenc|impact|versus|\bvs\b|effect", re.I)
_ABOUT_LEAST = re.compile(r"cheap|lowest|least|fewest|smallest|shortest|minimum|fastest time|worst", re.I)


def choose(question: str, table: TableProfile) -> list[Computation]:
    """The computations to make, the one that answers best first; the column summary is always the last."""
    labels, groups = label_columns(table, question), group_columns(table, question)
    measures = ranked(table.measures, question)
    chosen: list[Computation] = []
    cost = load_cost(question, table, labels)
    if cost:
        chosen.append(cost)
    if measures and groups:
        chosen.append(_groups(table, groups[0], measures[0], question))
        if len(groups) > 1 and relevance(groups[1], question) >= NAMED:
            chosen.append(_groups(table, groups[1], measures[0], question))
    dates = [column for column in table.columns if column.kind == "date"]
    if measures and dates and (_ABOUT_TIME.search(question) or not (labels or groups)):
        trend = _trend(table, dates[0], measures[0])
        # A group that the question names goes first, a trend it asks for before a group it does not name.
        named = bool(groups) and relevance(groups[0], question) >= NAMED
        chosen.insert(len(chosen) if named else 0, trend)
    if len(measures) > 1 and table.rows >= 5 and _ABOUT_BOTH.search(question):
        chosen.append(_correlation(table, measures[0], measures[1]))
    if measures and labels and not cost:
        chosen.append(_ranking(table, labels, measures[0], question))
    return [*chosen[: MAX_COMPUTATIONS - 1], _summary(table)]


def _ranking(
    table: TableProfile, labels: Sequence[ColumnProfile], measure: ColumnProfile, question: str
) -> Computation:
    ascending = bool(_ABOUT_LEAST.search(question))
    code = f"""
known = [(value, i) for i, value in enumerate(table[{measure.name!r}]) if value is not None]
known.sort(key=lambda pair: pair[0].middle, reverse={not ascending})
rows = [{{"label": label(i), "low": tidy(value.low), "high": tidy(value.high)}} for value, i in known]
result = {{"count": len(rows), "rows": rows}}
"""
    title = f"{title_name(measure)} by {labels[0].words}"

    def tell(output: Output) -> list[str]:
        rows = output["rows"]
        if not rows:
            return []
        first, last = ("lowest", "highest") if ascending else ("highest", "lowest")
        values = [span(row, "", measure.sign, measure.measured_in) for row in rows]
        told = [
            f"{rows[0]['label']} has the {first} {measure_name(measure)} ({values[0]}), "
            f"{rows[-1]['label']} the {last} ({values[-1]})."
        ]
        if len(rows) > 2:
            between = ", ".join(
                f"{row['label']} ({value})"
                for row, value in list(zip(rows, values, strict=True))[1 : min(_NAMED, len(rows)) - 1]
            )
            told.append(f"After the first come {between}.")
        return told

    chart = bar_chart(title, measure, "rows", "low", "high" if measure.kind == "range" else "")
    return Computation(title, program(table, labels, code, chart), tell)


def _groups(table: TableProfile, group: ColumnProfile, measure: ColumnProfile, question: str) -> Computation:
    ascending = bool(_ABOUT_LEAST.search(question))
    code = f"""
members = {{}}
for group, value in zip(table[{group.name!r}], table[{measure.name!r}]):
    if group is not None and value is not None:
        members.setdefault(group, []).append(value.middle)
groups = [
    {{"label": name, "mean": tidy(sum(v) / len(v)), "count": len(v), "min": tidy(min(v)), "max": tidy(max(v)),
     "total": tidy(sum(v))}}
    for name, v in members.items()
]
groups.sort(key=lambda row: row["mean"], reverse={not ascending})
result = {{"groups": groups}}
"""
    title = f"Mean {measure_name(measure)} by {group.words}"
    totals = bool(re.search(r"\btotal|\bsum\b|overall|altogether", question, re.I))

    def tell(output: Output) -> list[str]:
        rows = output["groups"]
        if not rows:
            return []
        told = [
            f"The mean {measure_name(measure)} is {amount(row['mean'], measure)} for {row['label']} "
            f"({plain(row['count'])} row{'' if row['count'] == 1 else 's'}, "
            f"{amount(row['min'], measure)} to {amount(row['max'], measure)})."
            for row in rows[:_NAMED]
        ]
        if len(rows) > 1:
            first, last = ("lowest", "highest") if ascending else ("highest", "lowest")
            told.insert(
                0,
                f"By {group.words}, the mean {measure_name(measure)} is {first} for {rows[0]['label']} "
                f"({amount(rows[0]['mean'], measure)}) and {last} for {rows[-1]['label']} "
                f"({amount(rows[-1]['mean'], measure)}).",
            )
        if totals:
            told += [
                f"The total for {row['label']} is {amount(row['total'], measure)}." for row in rows[:_NAMED]
            ]
        return told

    chart = bar_chart(title, measure, "groups", "mean", "")
    return Computation(title, program(table, (), code, chart), tell)


def _trend(table: TableProfile, when: ColumnProfile, measure: ColumnProfile) -> Computation:
    code = f"""
by_date = {{}}
for day, value in zip(table[{when.name!r}], table[{measure.name!r}]):
    if day is not None and value is not None:
        by_date.setdefault(day, []).append(value.middle)
points = [{{"date": day, "mean": tidy(sum(v) / len(v))}} for day, v in sorted(by_date.items())]
first, last = points[0], points[-1]
result = {{
    "points": points, "first": first, "last": last, "change": tidy(last["mean"] - first["mean"]),
    "percent": tidy(100 * (last["mean"] - first["mean"]) / first["mean"]) if first["mean"] else None,
    "highest": max(points, key=lambda p: p["mean"]), "lowest": min(points, key=lambda p: p["mean"]),
}}
"""
    title = f"{title_name(measure)} over time"

    def tell(output: Output) -> list[str]:
        first, last, change = output["first"], output["last"], output["change"]
        way = "rose" if change > 0 else "fell" if change < 0 else "stayed at"
        share = f" ({plain(output['percent'])} %)" if output["percent"] is not None and change else ""
        moved = f"from {amount(first['mean'], measure)} to {amount(last['mean'], measure)}{share}"
        return [
            f"Between {first['date']} and {last['date']}, {measure_name(measure)} {way} "
            + (f"{moved}." if change else f"{amount(last['mean'], measure)}."),
            f"It was highest on {output['highest']['date']} ({amount(output['highest']['mean'], measure)}) and "
            f"lowest on {output['lowest']['date']} ({amount(output['lowest']['mean'], measure)}).",
        ]

    chart = (
        f"line({CHART!r}, {title!r}, [p['date'] for p in points], [p['mean'] for p in points],\n"
        f"     axis={axis_name(measure)!r})"
    )
    return Computation(title, program(table, (), code, chart), tell)


def _correlation(table: TableProfile, first: ColumnProfile, second: ColumnProfile) -> Computation:
    code = f"""
pairs = [
    (x.middle, y.middle)
    for x, y in zip(table[{second.name!r}], table[{first.name!r}])
    if x is not None and y is not None
]
xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
spread = math.sqrt(sum((x - mean_x) ** 2 for x in xs) * sum((y - mean_y) ** 2 for y in ys))
r = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread if spread else None
result = {{"count": len(pairs), "r": None if r is None else round(r, 2)}}
"""
    title = f"{title_name(first)} against {second.words}"

    def tell(output: Output) -> list[str]:
        r = output["r"]
        if r is None:
            return []
        size = (
            "no clear"
            if abs(r) < 0.2
            else "a weak"
            if abs(r) < 0.5
            else "a clear"
            if abs(r) < 0.8
            else "a strong"
        )
        way = "" if abs(r) < 0.2 else " positive" if r > 0 else " negative"
        return [
            f"{title_name(first)} and {second.words} show {size}{way} linear relation "
            f"(correlation {r}, {plain(output['count'])} rows); this says nothing of cause."
        ]

    chart = (
        f"scatter({CHART!r}, {title!r}, xs, ys, x_axis={axis_name(second)!r}, y_axis={axis_name(first)!r})"
    )
    return Computation(title, program(table, (), code, chart), tell)


def _summary(table: TableProfile) -> Computation:
    code = f"""result = {{"file": {table.file!r}, "width": len(table.columns), **describe(table)}}\n"""

    def tell(output: Output) -> list[str]:
        told = [f"{table.file} has {plain(output['rows'])} rows and {plain(output['width'])} columns."]
        for column in output["columns"]:
            if column["kind"] in ("number", "range"):
                profile = next(c for c in table.columns if c.name == column["name"])
                told.append(
                    f"{title_name(profile)} ranges from {amount(column['min'], profile)} to "
                    f"{amount(column['max'], profile)}, with a mean of {amount(column['mean'], profile)}."
                )
        return told[: _NAMED + 1]

    return Computation(f"The columns of {table.file}", program(table, (), code, ""), tell)
