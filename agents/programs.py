"""The Python an analysis runs: its frame, its labels and its chart call, as text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from agents.phrases import axis_name
from agents.table_profile import ColumnProfile, TableProfile

Output: TypeAlias = Mapping[str, Any]
CHART = "chart.png"


@dataclass(frozen=True, slots=True)
class Computation:
    """A program for the sandbox that prints one JSON line, and how that line reads in sentences.

    A program that draws leaves its chart as the file CHART.
    """

    title: str
    code: str
    statements: Callable[[Output], list[str]]


def profile_program(file: str) -> str:
    """Prints the table's profile, or an object with `error` when the file holds no table."""
    return (
        "import json\n\nfrom manta_tables import NotATable, describe, read_table\n\ntry:\n"
        f"    result = describe(read_table({file!r}))\n"
        'except NotATable as error:\n    result = {"error": str(error)}\nprint(json.dumps(result))\n'
    )


def program(table: TableProfile, labels: Sequence[ColumnProfile], code: str, chart: str) -> str:
    drawing = chart.split("(")[0] if chart else ""
    readers = ", ".join(
        name for name in ("describe", "read_table", "tidy") if f"{name}(" in f"read_table( {code}"
    )
    lines = ["import json", "import math", ""]
    lines += [f"from manta_charts import {drawing}"] if drawing else []
    lines += [f"from manta_tables import {readers}"]
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
    return f"return str(table[{first.name!r}][i]) + ' (' + str(table[{others[0].name!r}][i]) + ')'"


def bar_chart(title: str, measure: ColumnProfile, rows: str, low: str, high: str) -> str:
    highs = f"[r[{high!r}] for r in {rows}], " if high else ""
    return (
        f"bars({CHART!r}, {title!r}, [r['label'] for r in {rows}], [r[{low!r}] for r in {rows}],\n"
        f"     {highs}axis={axis_name(measure)!r}, prefix={measure.sign!r})"
    )
