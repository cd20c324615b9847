"""What all benchmarks share: sides measured in turn, medians, one table, one JSON file."""

import json
import math
import os
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine

Side: TypeAlias = Callable[[], Awaitable[float]]
"""Measures once; returns the figure."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ratio` is above 1 where ours is the better figure."""

    case: str
    unit: str
    ours: float
    peer_name: str
    peer: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Target:
    """What was to be reached and what was. `limit` is the least (`at_least`) or the most (`at_most`) allowed."""

    case: str
    unit: str
    reached: float
    kind: Literal["at_least", "at_most"]
    limit: float

    @property
    def met(self) -> bool:
        return self.reached >= self.limit if self.kind == "at_least" else self.reached <= self.limit


async def in_turn(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """Every side's figures, measured in turn; every other round runs backwards, so that a drift hits all alike."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        order = list(sides) if turn % 2 == 0 else list(reversed(list(sides)))
        for name in order:
            figures[name].append(await sides[name]())
    return figures


def compare(
    case: str,
    unit: str,
    figures: Mapping[str, Sequence[float]],
    ours: str,
    *,
    better: Literal["more", "less"] = "more",
) -> list[Row]:
    """One row for each peer, of medians."""
    own = statistics.median(figures[ours])
    return [
        row(case, unit, own, peer, statistics.median(values), better=better)
        for peer, values in figures.items()
        if peer != ours
    ]


def row(
    case: str, unit: str, ours: float, peer_name: str, peer: float, *, better: Literal["more", "less"]
) -> Row:
    over, under = (ours, peer) if better == "more" else (peer, ours)
    ratio = over / under if under else float("inf")
    return Row(case, unit, round(ours, 4), peer_name, round(peer, 4), round(ratio, 3))


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest of `values` that `share` (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def show(title: str, rows: Sequence[Row], targets: Sequence[Target], console: Console | None = None) -> None:
    console = console or Console()
    if rows:
        console.print(_rows_table(title, rows))
    if targets:
        console.print(_targets_table(targets))


def write(
    path: Path, machine: Machine, rows: Sequence[Row], targets: Sequence[Target], details: Mapping[str, Any]
) -> None:
    """The whole result as JSON; the file is there wholly or not at all."""
    content = {
        "machine": machine.to_json(),
        "rows": [asdict(row) for row in rows],
        "targets": [{**asdict(target), "met": target.met} for target in targets],
        "details": dict(details),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def _rows_table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("case", "unit"):
        table.add_column(name, no_wrap=True)
    table.add_column("ours", justify="right")
    table.add_column("peer")
    table.add_column("peer's", justify="right")
    table.add_column("ratio", justify="right")
    for each in rows:
        figures = (_short(each.ours), each.peer_name, _short(each.peer), f"{each.ratio:.2f}")
        table.add_row(each.case, each.unit, *figures)
    return table


def _targets_table(targets: Sequence[Target]) -> Table:
    table = Table(title="Targets", title_justify="left")
    for name in ("case", "unit"):
        table.add_column(name, no_wrap=True)
    for name in ("target", "reached"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in targets:
        sign = "≥" if each.kind == "at_least" else "≤"
        verdict = "reached" if each.met else "missed"
        table.add_row(each.case, each.unit, f"{sign} {_short(each.limit)}", _short(each.reached), verdict)
    return table


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
