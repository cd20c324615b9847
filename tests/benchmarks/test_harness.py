"""Sides in turn, medians, ratios, the table and the file."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.harness import Row, Target, compare, in_turn, percentile, row, show, write
from benchmarks.machine import Machine

MACHINE = Machine("a processor", 2, 4.0, "Linux", "3.11", {"ray": "2.60.0"}, "ext4", 0.2, 0.0)


async def test_sides_take_turns_and_every_other_round_runs_backwards():
    order: list[str] = []

    def side(name: str):
        async def measure() -> float:
            order.append(name)
            return float(len(order))

        return measure

    figures = await in_turn({"a": side("a"), "b": side("b"), "c": side("c")}, 3)
    assert "".join(order) == "abccbaabc"
    assert figures == {"a": [1.0, 6.0, 7.0], "b": [2.0, 5.0, 8.0], "c": [3.0, 4.0, 9.0]}


def test_a_peer_is_compared_by_medians_so_one_outlier_changes_nothing():
    figures = {"ours": [90.0, 100.0, 5.0], "peer": [50.0, 49.0, 1000.0]}
    assert compare("case", "runs/s", figures, "ours") == [Row("case", "runs/s", 90.0, "peer", 50.0, 1.8)]


@pytest.mark.parametrize(("better", "ratio"), [("more", 0.5), ("less", 2.0)])
def test_a_ratio_above_one_is_ours_being_better(better, ratio):
    assert row("case", "unit", 10.0, "peer", 20.0, better=better).ratio == ratio


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles(share, expected):
    assert percentile(range(100, 0, -1), share) == expected


def test_a_percentile_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@pytest.mark.parametrize(
    ("kind", "reached", "met"),
    [("at_least", 2.0, True), ("at_least", 1.9, False), ("at_most", 2.0, True), ("at_most", 2.1, False)],
)
def test_targets(kind, reached, met):
    assert Target("case", "ratio", reached, kind, 2.0).met is met


def test_the_table_shows_figures_and_missed_targets():
    console = Console(file=io.StringIO(), width=120)
    rows = [Row("chains", "runs/s", 150.0, "peer", 75.0, 2.0)]
    show("Orchestration", rows, [Target("over peer", "ratio", 2.0, "at_least", 3.0)], console)
    text = console.file.getvalue()
    for part in ("Orchestration", "chains", "150.0", "75", "2.00", "≥ 3", "missed"):
        assert part in text


def test_the_file_holds_machine_and_rows(tmp_path: Path):
    path = tmp_path / "new" / "result.json"
    rows = [Row("chains", "runs/s", 150.0, "peer", 75.0, 2.0)]
    write(path, MACHINE, rows, [Target("over peer", "ratio", 2.0, "at_least", 3.0)], {"flushes": 7})
    found = json.loads(path.read_text())
    assert found["machine"]["cpu"] == "a processor"
    expected = {"case": "chains", "unit": "runs/s", "ours": 150.0}
    assert found["rows"] == [{**expected, "peer_name": "peer", "peer": 75.0, "ratio": 2.0}]
    assert found["targets"][0]["met"] is False
    assert found["details"] == {"flushes": 7}
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]
