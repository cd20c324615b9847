"""This machine, measured: with a clock of our own, so that the figures are known."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from benchmarks.sizing import compared, forecast
from manta.errors import InvalidInput
from manta.sizing.calibration import ROWS, Calibration, calibrate, load, save
from manta.sizing.catalogue import MODELS

SMALL = MODELS["smollm2-135m"]
CALIBRATION = Calibration("x", 8e9, 10e9, ((1, 5e9), (16, 40e9), (256, 80e9)))


def ticking() -> Iterator[float]:
    return (float(tick) for tick in count())


def test_rates_follow_from_the_clock():
    ticks = ticking()
    found = calibrate(SMALL, 8e9, lambda: next(ticks), rounds=1)
    # Each pass takes one tick, so the rates are the bytes and FLOPs of a pass.
    assert found.bandwidth >= 160 * 2**20
    assert [rows for rows, _ in found.curve] == list(ROWS)
    assert found.curve[0][1] == pytest.approx(found.bandwidth / 2)
    assert found.curve[-1][1] == pytest.approx(256 * found.curve[0][1])


def test_it_is_kept_and_found_again(tmp_path: Path):
    file = tmp_path / "home" / "calibration.json"
    assert load(file) is None
    save(CALIBRATION, file)
    assert load(file) == CALIBRATION


@pytest.mark.parametrize("text", ["no", "{}", '{"model": "x", "memory": 1, "bandwidth": 1, "curve": []}'])
def test_another_file_is_refused(text: str, tmp_path: Path):
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(InvalidInput, match="is no calibration"):
        load(file)


def test_the_benchmark_forecasts_by_the_formulas():
    told = forecast(CALIBRATION, 64)
    # One sequence reads 134.5 million weights of 4 bytes at 0.9 of 10 GB/s for a token.
    assert told["decode 1"] == pytest.approx(9e9 / (4 * SMALL.parameters), rel=0.1)
    assert told["decode 16"] > told["decode 4"] > told["decode 1"]


def test_the_benchmark_compares_medians():
    rows, targets = compared(
        [{"prefill": 100.0}, {"prefill": 300.0}, {"prefill": 120.0}],
        [{"prefill": 100.0}, {"prefill": 90.0}, {"prefill": 10.0}],
    )
    assert rows[0].ratio == pytest.approx(120 / 90, abs=0.001)
    assert [target.met for target in targets] == [True, False]
