"""How sure a slope is, and the memory of processes that it is taken of."""

import asyncio
import os
import random

import pytest

from benchmarks.memory import Memory, Sampled, growths, title, verdicts
from benchmarks.trend import UNKNOWN, student, trend


@pytest.mark.parametrize(("freedom", "expected"), [(3, 3.182), (5, 2.571), (10, 2.228), (100, 1.984)])
def test_students_t(freedom: float, expected: float) -> None:
    assert student(0.95, freedom) == pytest.approx(expected, rel=3e-3)


def noisy(slope: float, noise: float, count: int = 100, seed: int = 1) -> tuple[list[float], list[float]]:
    chance = random.Random(seed)
    minutes = [number / 10 for number in range(count)]
    return minutes, [100 + slope * minute + chance.gauss(0, noise) for minute in minutes]


@pytest.mark.parametrize(
    ("slope", "noise", "verdict"), [(0.0, 1.0, "flat"), (3.0, 1.0, "grows"), (1.0, 9.0, "unclear")]
)
def test_verdicts_on_slopes(slope: float, noise: float, verdict: str) -> None:
    found = trend(*noisy(slope, noise))
    assert found.low <= found.slope <= found.high
    assert found.verdict(1.0) == verdict


def test_the_interval_holds_the_slope_about_as_often_as_it_says() -> None:
    intervals = [trend(*noisy(0.5, 2.0, 60, seed)) for seed in range(200)]
    held = sum(found.low <= 0.5 <= found.high for found in intervals)
    assert 180 <= held <= 200


def walk(alike: float, seed: int, count: int = 100) -> list[float]:
    """Samples each of which remembers so much of the last."""
    chance, found = random.Random(seed), [0.0]
    while len(found) < count:
        found.append(alike * found[-1] + chance.gauss(0, 1))
    return found


@pytest.mark.parametrize(("alike", "least"), [(0.5, 175), (0.9, 160), (1.0, 150)])
def test_samples_that_follow_each_other_are_not_taken_for_independent(alike: float, least: int) -> None:
    minutes = [number / 10 for number in range(100)]
    intervals = [trend(minutes, walk(alike, seed)) for seed in range(200)]
    assert sum(found.low <= 0.0 <= found.high for found in intervals) >= least


def test_one_step_among_many_samples_is_flat() -> None:
    minutes = [number / 12 for number in range(96)]
    assert trend(minutes, [100.0] * 40 + [100.5] * 56).verdict(1.0) == "flat"
    assert trend(minutes, [100.0] * 40 + [160.0] * 56).verdict(1.0) == "unclear"


def test_too_little_tells_nothing() -> None:
    assert trend([1, 2, 3, 4, 5], [1, 1, 1, 1, 1]) is UNKNOWN
    assert trend([2.0] * 9, list(range(9))) is UNKNOWN
    assert UNKNOWN.verdict(1.0) == "unclear"
    constant, line = trend(list(range(9)), [5.0] * 9), trend(list(range(9)), [2.0 * n for n in range(9)])
    assert (constant.verdict(1e-6), line.verdict(1.9)) == ("flat", "grows")


def sampled(name: str, mib: list[float], since: float = 0.0) -> Sampled:
    return Sampled(name, [since + 5.0 * number for number in range(len(mib))], mib)


def test_growth_leaves_out_the_warm_up_and_the_short_lived() -> None:
    warming = [100.0 + 10 * min(number, 20) for number in range(101)]
    leaking = [100.0 + number / 5 for number in range(101)]
    found = growths(
        [
            sampled("warms", warming),
            sampled("leaks", leaking),
            sampled("leaks", [50.0] * 101),
            sampled("died", [10.0] * 50),
            sampled("late", [10.0] * 51, since=250.0),
        ]
    )
    assert [growth.name for growth in found] == ["leaks", "warms", "leaks 2"]
    assert found[0].a_minute.slope == pytest.approx(2.4)
    assert verdicts(found) == {"flat": ["warms", "leaks 2"], "grows": ["leaks"], "unclear": []}
    assert growths([]) == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["ray::ServeReplica:manta:gateway.handle_request(x)"], "ServeReplica:manta:gateway"),
        (["ray::IDLE", ""], "IDLE"),
        (["/x/raylet/raylet", "--raylet_socket_name=/tmp/a"], "raylet"),
        (["/v/bin/python3", "-u", "/x/log_monitor.py", "--session"], "log_monitor.py"),
    ],
)
def test_processes_are_named(words: list[str], name: str) -> None:
    assert title(words) == name


async def test_memory_of_children_is_sampled_and_the_load_left_out() -> None:
    memory = Memory()
    ours = await asyncio.create_subprocess_exec("sleep", "60")
    load = await asyncio.create_subprocess_exec("sleep", "60", "benchmarks.lean_load")
    try:
        for _ in range(2):
            memory.sample()
        assert 0 < memory.total_mib() < 20
        assert memory.growths() == []
        assert os.getpid() not in memory._found
        assert ours.pid in memory._found
        assert load.pid not in memory._found
    finally:
        for process in (ours, load):
            if process.returncode is None:
                process.kill()
            await process.wait()
