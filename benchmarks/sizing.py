"""The forecast of `manta gpus` against the torch engine in this process: the embedded model in fp32.

    python -m benchmarks.sizing --json out/sizing.json

Each round calibrates this machine and then measures every case, so that both meet the same state of it; the
figures are medians over the rounds. Rows `decode N`: N prompts of 40 tokens at once, tokens/s of all. `prefill`:
one prompt of 512 tokens, prompt tokens/s. `ours` is the forecast.

On a machine that is busy with other things a clock on the wall measures these. There, one thread and the
processor time of this process compare what is to be compared:

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.sizing --processor-time
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.engine_load import Heard, InProcess, Prompts
from benchmarks.harness import Row, Target, row, show, write
from benchmarks.machine import describe
from manta.machine import available_memory, usable_cores
from manta.sizing.calibration import Calibration, calibrate
from manta.sizing.catalogue import EMBEDDED_MODEL, MODELS
from manta.sizing.formulas import Replica
from serve_app.engine.engine import Engine
from serve_app.engine.types import EngineConfig
from serve_app.engine.weights import embedded_llm_path

AT_ONCE = (1, 4, 16)
PROMPT = 40
PREFILL = 512
WITHIN = 0.3
CHECKED = ("decode 16", "prefill")
SHAPE = MODELS[EMBEDDED_MODEL]
Clock = Callable[[], float]


class Measured:
    """The engine, measured with a clock of one's choice."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._side = InProcess("engine", engine)
        self._prompts = Prompts()
        self._clock = clock

    def all(self, new_tokens: int) -> dict[str, float]:
        """Tokens/s by case."""
        found = {}
        for at_once in AT_ONCE:
            heard, seconds = self._run(at_once, PROMPT, new_tokens)
            found[f"decode {at_once}"] = heard.tokens / seconds
        heard, seconds = self._run(1, PREFILL, 1)
        return {**found, "prefill": heard.prompt_tokens / seconds}

    def _run(self, requests: int, length: int, new_tokens: int) -> tuple[Heard, float]:
        prompts = self._prompts.several(requests, length)
        began = self._clock()
        heard = asyncio.run(self._side.run(prompts, new_tokens))
        return heard, self._clock() - began


def forecast(calibration: Calibration, new_tokens: int) -> dict[str, float]:
    """Tokens/s by case, from the formulas alone."""
    replica = Replica(SHAPE, calibration.device(), "fp32", "fp32")
    found = {f"decode {n}": new_tokens / replica.request_s(n, PROMPT, new_tokens) for n in AT_ONCE}
    return {**found, "prefill": PREFILL / replica.prefill_s(PREFILL)}


def compared(
    told: Sequence[dict[str, float]], seen: Sequence[dict[str, float]]
) -> tuple[list[Row], list[Target]]:
    """Medians over the rounds; of the two that must hold, both bounds."""
    rows = [
        row(
            case,
            "tokens/s",
            statistics.median(each[case] for each in told),
            "measured",
            statistics.median(each[case] for each in seen),
            better="more",
        )
        for case in told[0]
    ]
    checked = [each for each in rows if each.case in CHECKED]
    bounds = [Target(each.case, "of measured", each.ratio, "at_least", 1 - WITHIN) for each in checked]
    bounds += [Target(each.case, "of measured", each.ratio, "at_most", 1 + WITHIN) for each in checked]
    return rows, bounds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--processor-time", action="store_true", help="one thread, by its processor time")
    parser.add_argument("--folder", type=Path, default=Path("out"), help="a folder on a real disk")
    options = parser.parse_args(arguments)
    if options.processor_time and os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        parser.error("--processor-time needs OPENBLAS_NUM_THREADS=1, so that numpy too uses one thread")
    options.folder.mkdir(parents=True, exist_ok=True)
    machine = describe(options.folder, ("torch", "numpy"))
    clock, threads = (time.process_time, 1) if options.processor_time else (time.perf_counter, usable_cores())
    torch.set_num_threads(threads)
    config = EngineConfig(
        dtype="float32", threads=threads, max_batch=max(AT_ONCE), kv_tokens=8192, speculate=0
    )
    engine = Engine.load(embedded_llm_path(), config)
    engine.start()
    told, seen = [], []
    try:
        measured = Measured(engine, clock)
        # The first steps of a process are slower.
        measured.all(4)
        for _ in range(options.rounds):
            told.append(forecast(calibrate(SHAPE, available_memory(), clock), options.new_tokens))
            seen.append(measured.all(options.new_tokens))
    finally:
        engine.stop()
    rows, targets = compared(told, seen)
    show(f"Forecast and engine, {threads} thread(s)", rows, targets)
    if options.json is not None:
        details = {"threads": threads, "processor_time": options.processor_time, "told": told, "seen": seen}
        write(options.json, machine, rows, targets, details)
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
