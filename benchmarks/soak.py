"""A platform under constant load for minutes: does it keep its pace, and does its memory stay flat.

    python -m benchmarks.soak --seconds 600 --price-per-hour 0.80 --json out/soak.json

A whole platform on a Ray of its own, with a key, whose model sleeps the step time that `manta gpus` forecasts for
`--shape` on `--gpu` (or `--step-s`): what is soaked is the platform; what is said of a GPU is as good as that
forecast. First the knee is looked for: the rate of Poisson arrivals at which 5 % of the answers do not begin within
`--bound-ms`. Then streams arrive at `--share` of it. Times count from when a request was due, whatever becomes of
those before. Utilisation: the mean share of the replicas' slots (`--max-batch` of each) at work, asked every
second. Memory: what each process has for itself alone, every 5 s; flat is a slope whose 95 % interval lies wholly
below 1 MiB a minute, the first fifth of the time left out (see `benchmarks.trend`). Ctrl-C ends the load and
reports what there is.
"""

import argparse
import asyncio
import dataclasses
import random
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import workspace
from benchmarks.harness import show, write
from benchmarks.knee import Trial
from benchmarks.lean_client import NUMBER
from benchmarks.lean_load import Order
from benchmarks.machine import Machine, describe
from benchmarks.memory import GROWS_MIB, Growth, verdicts
from benchmarks.soak_figures import Figures, Setting, lasted, marks, reckon
from benchmarks.soak_load import Plan, Replicas, Soak
from manta.sizing.catalogue import MODELS
from manta.sizing.devices import gpu
from manta.sizing.formulas import Replica

if TYPE_CHECKING:
    from benchmarks.sleeping_platform import Running

MODEL = "soaked"
PACKAGES = ("ray", "fastapi", "uvicorn")
WORDS = "the tide turns at noon and the harbour fills with boats that waited for it outside the bar "


@dataclass(frozen=True, slots=True)
class Model:
    """What the replica sleeps: seconds of a step (constant, and for each sequence beside it), and for each token of
    a prompt. `source` says why.
    """

    step_s: tuple[float, float]
    source: str
    prefill_s: float = 0.0


def fitted(shape: str, device: str, dtype: str, batch: int, prompt: int, tokens: int) -> Model:
    """The line through the forecast steps of one sequence and of a full batch. Raises NotFound for the GPU."""
    replica = Replica(MODELS[shape], gpu(device), dtype, "bf16")
    one, full = (replica.decode_step_s(count, prompt + tokens / 2) for count in (1, batch))
    each = (full - one) / max(1, batch - 1)
    source = f"{shape} in {dtype} on one {gpu(device).name}, forecast by manta.sizing"
    return Model((one - each, each), source, replica.prefill_s(prompt) / prompt)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`knee` is the one that was found, or given; `rate` what was soaked. `late_s`: the client's own lateness."""

    knee: float
    trials: Sequence[Trial]
    rate: float
    figures: Figures | None
    growths: Sequence[Growth]
    faults: Mapping[str, int]
    total_mib: float
    late_s: float


async def soak(platform: "Running", replicas: Replicas, options: argparse.Namespace) -> Outcome:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    plan = Plan(
        options.seconds, options.trial_seconds, options.start_rate, options.bound_ms / 1000, options.seed
    )
    work = Soak(asked(platform.url, platform.key, options), plan, stop)
    print(f"Seed {options.seed}. The knee, by trials of {options.trial_seconds:g} s:", flush=True)
    top = options.knee or await work.find_knee()
    rate = top * options.share
    if stop.is_set() or rate == 0:
        return Outcome(top, work.trials, rate, None, (), {}, 0.0, 0.0)
    print(f"Knee {top:.2f}/s; now {rate:.2f}/s for {options.seconds:g} s", flush=True)
    seen = await work.run(rate, replicas)
    faults = Counter(timed.answer.fault for timed in seen.answers if timed.answer.fault)
    figures = None
    if len(seen.answers) > faults.total():
        seconds = lasted(seen.answers, options.seconds, stopped=stop.is_set())
        figures = reckon(seen.answers, seconds, seen.busy, setting(platform, options))
    late_s = seen.end.late_s if seen.end else 0.0
    memory = seen.memory
    total_mib, late_s = memory.total_mib(), round(late_s, 4)
    return Outcome(top, work.trials, rate, figures, memory.growths(), faults, total_mib, late_s)


def asked(url: str, key: str, options: argparse.Namespace) -> Order:
    """A stream with a prompt of about `--prompt-tokens` words that no other request begins with."""
    words = (WORDS * (options.prompt_tokens // len(WORDS.split()) + 1)).split()[: options.prompt_tokens - 1]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": " ".join([NUMBER, *words])}],
        "max_tokens": options.tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Order(url, "/v1/chat/completions", body, key)


def setting(platform: "Running", options: argparse.Namespace) -> Setting:
    return Setting(options.replicas, options.max_batch, options.price_per_hour, platform.deployed_s)


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    with workspace.make("benchmarks.soak", options.folder) as space:
        from benchmarks.sleeping_platform import ModelReplicas, running

        machine = describe(space.folder, PACKAGES)
        model = soaked_model(options)
        constant, each = model.step_s
        print(
            f"Model: {model.source}; a step takes {constant:.4f} s + {each:.6f} s each, a prompt's token "
            f"{model.prefill_s:.6f} s"
        )
        try:
            with running(space.home, {MODEL: model_settings(model, options)}) as platform:
                outcome = asyncio.run(soak(platform, ModelReplicas(platform.apps[MODEL]), options))
                # Told while the platform still stands: taking it down takes long.
                return tell(outcome, setting(platform, options), model, machine, options)
        except KeyboardInterrupt:
            print("stopped while the platform went up or down", file=sys.stderr)
            return 130


def tell(
    outcome: Outcome, set_up: Setting, model: Model, machine: Machine, options: argparse.Namespace
) -> int:
    """Everything on the terminal, and in the file that was asked for. Returns the exit status."""
    if outcome.figures is None:
        print(f"Nothing was soaked. Trials: {[dataclasses.astuple(trial) for trial in outcome.trials]}")
        return 1
    reached = marks(outcome.figures, set_up, outcome.growths)
    show("Soak", [], reached)
    details = report(outcome, outcome.figures, model)
    for name, value in details.items():
        print(f"{name}: {value}", flush=True)
    if options.json is not None:
        write(options.json, machine, [], reached, {**details, "options": _told(options)})
    return 0


def report(outcome: Outcome, figures: Figures, model: Model) -> dict[str, Any]:
    """Everything but the marks."""
    known = verdicts(outcome.growths)
    slopes = {
        growth.name: f"{growth.mib:.0f} MiB, {growth.a_minute.slope:+.2f} MiB/min "
        f"({growth.a_minute.low:+.2f} to {growth.a_minute.high:+.2f})"
        for growth in outcome.growths
    }
    return {
        "knee": round(outcome.knee, 2),
        "rate": round(outcome.rate, 2),
        "trials": [dataclasses.asdict(trial) for trial in outcome.trials],
        "figures": {**dataclasses.asdict(figures), "availability": round(figures.availability, 4)},
        "faults": dict(outcome.faults),
        "client_late_s": outcome.late_s,
        "model": dataclasses.asdict(model),
        "memory_mib": round(outcome.total_mib),
        "memory_by_process": slopes,
        f"memory, against {GROWS_MIB:g} MiB/min": {name: len(names) for name, names in known.items()},
        "not flat": [*known["grows"], *known["unclear"]],
    }


def soaked_model(options: argparse.Namespace) -> Model:
    if options.step_s is not None:
        return Model(tuple(options.step_s), "as given")
    sizes = options.max_batch, options.prompt_tokens, options.tokens
    return fitted(options.shape, options.gpu, options.dtype, *sizes)


def model_settings(model: Model, options: argparse.Namespace) -> dict[str, Any]:
    """Replicas that do not scale, each with as many places as slots, so that what waits waits in Serve's queue."""
    count, slots = options.replicas, options.max_batch
    replicas = {
        "min": count,
        "max": count,
        "num_cpus": 0.05,
        "max_ongoing": slots,
        "target_ongoing": slots,
        "max_queued": 4 * slots * count,
    }
    return {
        "step_s": model.step_s,
        "prefill_s": model.prefill_s,
        "max_batch": slots,
        "replicas": replicas,
    }


def _told(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if not isinstance(value, Path)}


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--json", type=Path, help="write the result here")
    add("--seconds", type=float, default=600.0, help="of the soak itself")
    add("--share", type=float, default=0.7, help="of the knee")
    add("--knee", type=float, default=0.0, metavar="RATE", help="requests/s; default: it is looked for")
    add("--bound-ms", type=float, default=500.0, help="to the first text, for 95 %% of the answers")
    add("--trial-seconds", type=float, default=15.0, help="of each rate that is tried for the knee")
    add("--start-rate", type=float, default=2.0, help="requests/s that are tried first")
    add(
        "--seed",
        type=int,
        default=random.randrange(1 << 32),
        help="of the arrivals; default: another each time",
    )
    add("--price-per-hour", type=float, metavar="PRICE", help="of one replica; without it no cost is told")
    add("--replicas", type=int, default=1)
    add("--max-batch", type=int, default=16, help="requests that one replica works on at a time")
    add("--prompt-tokens", type=int, default=100, help="of each prompt, about")
    add("--tokens", type=int, default=32, help="of each answer")
    add(
        "--shape",
        choices=sorted(MODELS),
        default="llama-3.1-8b",
        metavar="MODEL",
        help="as `manta gpus` names it",
    )
    add("--gpu", default="L4", help="as `manta gpus` names it")
    add("--dtype", default="fp8", help="of the weights")
    add("--step-s", type=float, nargs=2, metavar=("CONSTANT", "EACH"), help="seconds, instead of a forecast")
    add("--folder", type=Path, default=workspace.FOLDER, help="a folder on a real disk")
    options = parser.parse_args(arguments)
    if options.seconds <= 0 or not 0 < options.share <= 1 or options.start_rate <= 0:
        parser.error("--seconds and --start-rate are over 0, --share is over 0 and at most 1")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
