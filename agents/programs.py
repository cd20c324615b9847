"""The Python an analysis runs: its frame, its labels and its chart call, as text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from agents.phrases import axis_name
from agents.table_profile import ColumnProfile, TableProfile

Output: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Computation:
    """A program for the sandbox, the chart file it draws (or empty), and how its JSON line reads in sentences."""

    title: str
    code: str
    statements: Callable[[Output], list[str]]
    chart: str = ""


def program(table: TableProfile, labels: Sequence[ColumnProfile], code: str, chart: str) -> str:
    drawing = chart.split("(")[0] if chart else ""
    lines = [
        "import json",
        "import math",
        "",
        f"from manta_tables import {'describe, ' if 'describe(' in code else ''}read_table, tidy",
    ]
    if drawing:
        lines.insert(3, f"from manta_charts import {drawing}")
    lines += ["", f"table = read_table({table.file!r})"]
    if "label(" in code:
        lines += ["", "", "def label(i):", f"    {_label_code(labels)}", ""]
    body = [line for line in code.strip().splitlines() if line.strip()]
    used = "\n".join([*lines, "", *body, *([chart] if chart else []), "print(json.dumps(result))"])
    return (used if "math." in used else used.replace("import math\n", "")) + "\n"


def _label_code(labels: Sequence[ColumnProfile]) -> str:
    if not labels:
        return 'return f"row {i + 1}"'
    first, *others = labels
    if not others:
        return f"return table[{first.name!r}][i]"
    return f'return f"{{table[{first.name!r}][i]}} ({{table[{others[0].name!r}][i]}})"'


def bar_chart(
    title: str, measure: ColumnProfile, rows: str, low: str, high: str, file: str = "chart.png"
) -> str:
    highs = f"[r[{high!r}] for r in {rows}], " if high else ""
    return (
        f"bars({file!r}, {title!r}, [r['label'] for r in {rows}], [r[{low!r}] for r in {rows}],\n"
        f"     {highs}axis={axis_name(measure)!r}, prefix={measure.sign!r})"
    )


