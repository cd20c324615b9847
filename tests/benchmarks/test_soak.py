"""The knee, the figures and the marks of a soak, and what becomes of one that is stopped."""

import argparse
import asyncio
import json
import math
from pathlib import Path

import pytest

from benchmarks.harness import percentile
from benchmarks.knee import Trial, knee, next_rate
from benchmarks.lean_client import Answer
from benchmarks.lean_process import End, Heard, Timed
from benchmarks.machine import Machine
from benchmarks.memory import Growth
from benchmarks.soak import (
    Model,
    Outcome,
    asked,
    fitted,
    model_settings,
    read_options,
    report,
    soaked_model,
    tell,
)
from benchmarks.soak_figures import Setting, cost, lasted, marks, reckon
from benchmarks.soak_load import Plan, Soak, tried
from benchmarks.trend import UNKNOWN, Trend
from manta.model_settings import ModelSettings
from tests.benchmarks.lean_server import lean_server, whole

SET_UP = Setting(replicas=2, slots=8, price=0.9, deployed_s=25.0)


def searched(capacity: float, start: float = 2.0, precision: float = 0.1) -> list[Trial]:
    """The trials of a platform that carries everything up to its capacity, and nothing in time beyond."""
    trials: list[Trial] = []
    while (rate := next_rate(trials, start, precision)) is not None:
        trials.append(Trial(rate, 1.0 if rate <= capacity else 0.4))
        assert len(trials) < 30
    return trials


@pytest.mark.parametrize("capacity", [0.7, 2.0, 3.1, 47.0, 900.0])
def test_the_knee_is_found_from_below_and_above(capacity: float) -> None:
    trials = searched(capacity)
    assert capacity / 1.11 <= knee(trials) <= capacity
    assert len(trials) <= 16


def test_nothing_is_carried() -> None:
    trials = searched(0.0)
    assert knee(trials) == 0
    assert knee([]) == 0


def test_a_lucky_trial_above_a_lost_one_does_not_count() -> None:
    assert knee([Trial(4, 1.0), Trial(8, 0.2), Trial(16, 1.0)]) == 4


def test_late_answers_and_failed_ones_are_not_carried() -> None:
    answers = [Answer(0.1, 1.0, 200)] * 18 + [Answer(0.6, 1.0, 200), Answer(0.1, 0.1, 503, "status 503")]
    trial = tried(5.0, Heard([Timed(0.0, answer) for answer in answers], End(1.0, 20, 0.0, 0.0)), 0.5)
    assert (trial.good, trial.carried, trial.goodput) == (0.9, False, 4.5)
    assert tried(5.0, Heard([], End(1.0, 0, 0.0, 0.0)), 0.5).good == 0.0


def answers(good: int, failed: int = 0) -> list[Timed]:
    whole_ones = [
        Timed(0.0, Answer(number / 1000, number / 100, 200, "", 100, 20)) for number in range(1, good + 1)
    ]
    return whole_ones + [Timed(0.0, Answer(0.0, 0.0, 503, "status 503"))] * failed


def test_figures() -> None:
    figures = reckon(answers(1000, 1), 50.0, [4.0, 8.0, 12.0], SET_UP)
    assert figures.first_ms == {"p50": 500.0, "p95": 950.0, "p99": 990.0}
    assert figures.whole_ms["p99"] == 9900.0
    assert (figures.rate, figures.rate_each, figures.tokens_per_s, figures.busy) == (20.0, 10.0, 2400.0, 50.0)
    assert figures.availability == pytest.approx(99.9001, abs=1e-4)
    # 1.80 an hour buys 8.64 million tokens.
    assert figures.cost == pytest.approx(0.2083, abs=1e-4)
    assert percentile([1.0], 0.99) == 1.0


def test_a_soak_lasts_as_planned_or_until_it_was_stopped() -> None:
    arrived = [Timed(since, Answer(0.1, 0.2, 200)) for since in (3.0, 140.0, 20.0)]
    assert lasted(arrived, 600.0, stopped=False) == 600.0
    assert lasted(arrived, 600.0, stopped=True) == 140.0
    assert lasted([], 600.0, stopped=True) == 600.0


def test_cost_is_told_only_with_a_price_and_tokens() -> None:
    assert cost(None, 1, 100.0) is None
    assert cost(1.0, 1, 0.0) is None
    assert cost(3.6, 1, 1000.0) == 1.0
    assert cost(0.0, 3, 10.0) == 0.0


def test_nothing_was_answered() -> None:
    with pytest.raises(ValueError, match="no values"):
        reckon(answers(0, 3), 1.0, [], SET_UP)


def test_marks() -> None:
    grown = Growth("gateway", 200.0, Trend(0.1, -0.5, 0.7))
    figures = reckon(answers(20_000, 2), 500.0, [15.0], SET_UP)
    reached = {target.case: target.met for target in marks(figures, SET_UP, [grown])}
    assert reached == {
        "P95 to the first text": False,
        "requests for each replica": True,
        "failed (availability 99.99 %)": True,
        "utilisation of replicas": True,
        "deployment": True,
        "a million tokens": True,
        "memory, at most (gateway)": True,
    }
    free = Setting(2, 8, None, 301.0)
    figures = reckon(answers(100, 1), 50.0, [], free)
    reached = {target.case: target.met for target in marks(figures, free, [])}
    assert not any(
        reached[case] for case in ("failed (availability 99.99 %)", "utilisation of replicas", "deployment")
    )
    assert "a million tokens" not in reached


def test_the_fitted_step_is_the_forecast() -> None:
    model = fitted("llama-3.1-8b", "l4", "fp8", 16, 100, 32)
    constant, each = model.step_s
    assert 0.02 < constant < 0.06
    assert 0 < 16 * each < constant
    # A prompt of 100 tokens is read in one pass over the weights, as a step is.
    assert 100 * model.prefill_s == pytest.approx(constant, rel=0.1)
    assert "L4" in model.source


def options(*words: str) -> argparse.Namespace:
    return read_options(["--seed", "1", *words])


def test_options_become_a_model_and_a_prompt() -> None:
    assert soaked_model(options("--step-s", "0.02", "0.001")) == Model((0.02, 0.001), "as given")
    settings = model_settings(soaked_model(options()), options("--replicas", "2", "--max-batch", "4"))
    checked = ModelSettings.model_validate({"backend": "sleep", **settings})
    assert (checked.max_batch, checked.replicas.min, checked.replicas.max_ongoing) == (4, 2, 4)
    order = asked("http://h:1", "mk", options("--prompt-tokens", "40", "--tokens", "5"))
    assert len(order.body["messages"][0]["content"].split()) == 40
    assert order.body["max_tokens"] == 5


@pytest.mark.parametrize("wrong", [["--seconds", "0"], ["--share", "1.5"], ["--gpus", "2"]])
def test_options_that_cannot_be(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        options(*wrong)


def test_the_report_names_what_is_not_flat() -> None:
    grown = [
        Growth("a", 10.0, Trend(2, 1.5, 2.5)),
        Growth("b", 10.0, UNKNOWN),
        Growth("c", 1.0, Trend(0, 0, 0)),
    ]
    figures = reckon(answers(10), 5.0, [1.0], SET_UP)
    outcome = Outcome(4.0, [Trial(4, 1.0), Trial(8, 0.1)], 2.8, figures, grown, {"cut off": 1}, 21.0, 0.01)
    told = report(outcome, figures, Model((0.1, 0.0), "as given"))
    assert told["knee"] == 4
    assert told["not flat"] == ["a", "b"]
    assert told["faults"] == {"cut off": 1}
    assert "+2.00 MiB/min (+1.50 to +2.50)" in told["memory_by_process"]["a"]
    assert not math.isnan(told["figures"]["availability"])


@pytest.mark.parametrize("soaked", [True, False])
def test_what_is_told_is_also_in_the_file(
    soaked: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = reckon(answers(10), 5.0, [1.0], SET_UP) if soaked else None
    outcome = Outcome(4.0, [Trial(4, 1.0)], 2.8, figures, [], {}, 21.0, 0.01)
    machine = Machine("a processor", 2, 4.0, "Linux", "3.11", {}, "ext4", 0.2, 0.0)
    file = tmp_path / "soak.json"
    status = tell(outcome, SET_UP, Model((0.1, 0.0), "as given"), machine, options("--json", str(file)))
    assert (status, file.exists()) == ((0, True) if soaked else (1, False))
    assert ("reached" if soaked else "Nothing was soaked") in capsys.readouterr().out
    if soaked:
        found = json.loads(file.read_text())
        assert found["details"]["options"]["seed"] == 1
        assert {target["case"] for target in found["targets"]} >= {
            "P95 to the first text",
            "a million tokens",
        }


class Counting:
    async def stats(self) -> list[dict]:
        return [{"running": 2}, {"running": 3}]


async def test_a_soak_gathers_until_it_is_stopped() -> None:
    stop = asyncio.Event()
    async with lean_server() as server:
        order = asked(server.url, "", options("--prompt-tokens", "5"))
        soak = Soak(order, Plan(3600.0, 0.3, 20.0, 30.0, seed=1), stop)
        running = asyncio.create_task(soak.run(20.0, Counting()))
        async with asyncio.timeout(60):
            while not server.bodies:
                await asyncio.sleep(0.01)
        stop.set()
        seen = await running
    assert seen.end is not None
    assert seen.end.asked == len(seen.answers) >= 1
    assert set(seen.busy) == {5.0}


async def test_the_knee_of_a_server_that_refuses_everything_is_none() -> None:
    async with lean_server(whole(503, {})) as server:
        order = asked(server.url, "", options("--prompt-tokens", "5"))
        soak = Soak(order, Plan(1.0, 0.3, 8.0, 30.0, seed=1), asyncio.Event())
        assert await soak.find_knee() == 0
    assert [trial.rate for trial in soak.trials] == [8.0, 4.0, 2.0, 1.0, 0.5]
    assert server.bodies
