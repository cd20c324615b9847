"""The torch engine against transformers' continuous batching, the same checkpoint, in turn, in one run.

    python -m benchmarks.engine --json out/engine.json               # the engines in this process
    python -m benchmarks.engine --serve --json out/engine.json       # ours through HTTP, on a Ray Serve of its own
    python -m benchmarks.engine --http URL --peer llama.cpp=URL      # servers that run already
    python -m benchmarks.engine --random 8b --device cuda --dtype bfloat16    # random weights, on a GPU

Rows `decode N`: N prompts of about 40 tokens at once, 64 new tokens each, tokens/s. `prefill`: one prompt of
about 512 tokens, prompt tokens/s. `shared prefix`: seconds to the first token of a prompt whose beginning of
about 1,000 tokens was seen before; its peer is the same without the earlier prompt. The first of `--quantize` is
what the targets are about; rows of the others bear its name. A row with 4 bits takes long without AVX-512.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch

from benchmarks.engine_load import Heard, InProcess, Prompts, Server
from benchmarks.harness import Row, Side, Target, compare, in_turn, percentile, row, show, write
from benchmarks.http_load import OverHttp
from benchmarks.machine import describe
from benchmarks.peer_transformers import TransformersPeer
from benchmarks.random_model import SIZES, write_model
from manta.errors import InvalidConfig
from serve_app.engine.bundle import load_tokenizer
from serve_app.engine.engine import Engine
from serve_app.engine.loader import choose_device
from serve_app.engine.types import EngineConfig
from serve_app.engine.weights import embedded_llm_path

NEW_TOKENS = 64
WARM_UP_TOKENS = 4
AT_ONCE = (1, 4, 16, 32)
PREFILL = 512
SHARED = 1000
LEAST = {"decode 1": 8.0, "decode 16": 2.8, "decode 32": 2.8, "prefill": 1.0}
MOST_SHARED = 0.05
PACKAGES = ("torch", "transformers")
KINDS = ("none", "int8", "int4", "mixed")


class Subject(Protocol):
    """A side of the comparison."""

    name: str

    async def decode(self, prompts: Sequence[str], new_tokens: int) -> float: ...

    async def prefill(self, prompt: str) -> float: ...


class Streaming:
    """A server as a side, and the latencies that were seen on the way."""

    def __init__(self, server: Server) -> None:
        self.name = server.name
        self._server = server
        self._heard: dict[int, list[Heard]] = {}

    async def decode(self, prompts: Sequence[str], new_tokens: int) -> float:
        heard = await self._server.run(prompts, new_tokens)
        self._heard.setdefault(len(prompts), []).append(heard)
        return heard.tokens / heard.seconds

    async def prefill(self, prompt: str) -> float:
        heard = await self._server.run([prompt], 1)
        return heard.prompt_tokens / heard.seconds

    async def shared(self, prompts: Prompts) -> tuple[float, float]:
        """Seconds of a prompt alone: fresh, and when its beginning is known."""
        beginning = prompts.one(SHARED)
        fresh = await self._server.run([f"{beginning} {prompts.one(12)}"], 1)
        again = await self._server.run([f"{beginning} {prompts.one(12)}"], 1)
        return fresh.seconds, again.seconds

    def forget(self) -> None:
        """What was heard so far is not reported."""
        self._heard.clear()

    def latencies(self) -> dict[str, dict[str, float]]:
        """Milliseconds, by how many ran at once."""
        return {str(at_once): _latencies(heard) for at_once, heard in self._heard.items()}


def _latencies(runs: Sequence[Heard]) -> dict[str, float]:
    first = [value for heard in runs for value in heard.first]
    gaps = [value for heard in runs for value in heard.gaps]
    found = {"first_token": statistics.median(first)}
    found |= {f"gap_p{share}": percentile(gaps, share / 100) for share in (50, 95, 99)}
    return {f"{name}_ms": round(value * 1000, 1) for name, value in found.items()}


async def measure(ours: Sequence[Streaming], peers: Sequence[Subject], rounds: int) -> list[Row]:
    """Rows of each of ours against each peer; cases of all but the first of ours bear its name."""
    prompts = Prompts()
    sides: list[Subject] = [*ours, *peers]
    for side in sides:
        # Each number at once, as some sides prepare for it when they first meet it.
        for at_once in AT_ONCE:
            await side.decode(prompts.several(at_once, 40), WARM_UP_TOKENS)
    for own in ours:
        own.forget()
    rows: list[Row] = []
    for at_once in AT_ONCE:
        figures = await in_turn({side.name: _decoding(side, prompts, at_once) for side in sides}, rounds)
        rows += _rows(f"decode {at_once}", figures, ours)
    figures = await in_turn({side.name: _reading(side, prompts) for side in sides}, rounds)
    rows += _rows("prefill", figures, ours)
    for side in ours:
        pairs = [await side.shared(prompts) for _ in range(rounds)]
        fresh, again = (statistics.median(times) for times in zip(*pairs, strict=True))
        rows.append(row(_case("shared prefix", side, ours), "s", again, "fresh", fresh, better="less"))
    return rows


def _decoding(side: Subject, prompts: Prompts, at_once: int) -> Side:
    return lambda: side.decode(prompts.several(at_once, 40), NEW_TOKENS)


def _reading(side: Subject, prompts: Prompts) -> Side:
    return lambda: side.prefill(prompts.one(PREFILL))


def _rows(case: str, figures: Mapping[str, Sequence[float]], ours: Sequence[Streaming]) -> list[Row]:
    own = [side.name for side in ours]
    rows = []
    for side in ours:
        against = {name: values for name, values in figures.items() if name not in own or name == side.name}
        rows += compare(_case(case, side, ours), "tokens/s", against, side.name)
    return rows


def _case(case: str, side: Streaming, ours: Sequence[Streaming]) -> str:
    return case if side is ours[0] else f"{case} ({side.name})"


def targets(rows: Sequence[Row]) -> list[Target]:
    found = [
        Target(r.case, "x", r.ratio, "at_least", LEAST[r.case])
        for r in rows
        if r.case in LEAST and r.peer_name == TransformersPeer.name
    ]
    shared = next(r for r in rows if r.case == "shared prefix")
    share = round(shared.ours / shared.peer, 4)
    return [*found, Target("shared prefix", "of computing", share, "at_most", MOST_SHARED)]


def configs(options: argparse.Namespace, threads: int) -> dict[str, EngineConfig]:
    """Ours by name: the kinds of weights, or on a GPU the engine with and without recorded steps."""
    plain = EngineConfig(
        dtype=options.dtype,
        device=options.device,
        threads=threads,
        max_batch=max(AT_ONCE),
        kv_tokens=8192,
        speculate=options.speculate,
    )
    if options.device != "cpu":
        return {"graphs": plain, "no graphs": replace(plain, cuda_graphs=False)}
    return {
        kind: plain if kind == "none" else replace(plain, dtype="auto", quantize=kind)
        for kind in options.quantize
    }


@contextlib.contextmanager
def loaded(path: Path, wanted: Mapping[str, EngineConfig]) -> Iterator[tuple[list[Server], dict[str, int]]]:
    """Engines in this process, and the memory of it that each added, in MiB."""
    engines, servers, memory = [], [], {}
    for name, config in wanted.items():
        before = _own_memory(config.device)
        engine = Engine.load(path, config)
        engine.start()
        engines.append(engine)
        servers.append(InProcess(name, engine))
        memory[name] = _own_memory(config.device) - before
    try:
        yield [*servers], memory
    finally:
        for engine in engines:
            engine.stop()


def _own_memory(device: str) -> int:
    if device == "cpu":
        return round(psutil.Process().memory_full_info().pss / 2**20)
    return round(torch.cuda.memory_allocated(device) / 2**20)


def compare_sides(
    options: argparse.Namespace, servers: Sequence[Server], details: dict[str, Any], memory_of: Any = None
) -> None:
    """Measure, show and write. `memory_of()`: MiB of what serves, asked for at the end."""
    machine = describe(options.folder, (*PACKAGES, "ray") if options.serve else PACKAGES)
    torch.set_num_threads(machine.cores)
    ours = [Streaming(server) for server in servers]
    path = model_path(options)
    encode = load_tokenizer(path).encode
    others = [Streaming(OverHttp(*named.split("=", 1))) for named in options.peer]
    if options.device != "cpu":
        # Ours without graphs is what the one with graphs is held against.
        ours, others = ours[:1], [*ours[1:], *others]
    peers: list[Subject] = [*others]
    if not options.alone:
        peers.insert(0, TransformersPeer(path, getattr(torch, options.dtype), encode, options.device))
    rows = asyncio.run(measure(ours, peers, options.rounds))
    # The aims are about the embedded model on a CPU, against transformers.
    aimed = not (options.random or options.alone) and options.device == "cpu"
    reached = targets(rows) if aimed else []
    show(f"Engine ({', '.join(s.name for s in ours)}); transformers in {options.dtype}", rows, reached)
    if options.device != "cpu":
        details["device"] = torch.cuda.get_device_name(options.device)
    details |= {"latencies": {side.name: side.latencies() for side in (*ours, *others)}}
    if memory_of is not None:
        details["memory_mib"] = memory_of()
    print(f"Milliseconds: {details['latencies']}\nMemory in MiB: {details.get('memory_mib')}")
    if options.json is not None:
        write(options.json, machine, rows, reached, {**details, "peer_dtype": options.dtype})


def model_path(options: argparse.Namespace) -> Path:
    """The embedded model, or one of random weights, which is written when it is not there."""
    if not options.random:
        return embedded_llm_path()
    folder: Path = options.folder / f"random-{options.random}-{options.dtype}"
    if not (folder / "tokenizer.json").exists():
        write_model(folder, options.random, getattr(torch, options.dtype), torch.device(options.device))
    return folder


def _served(options: argparse.Namespace) -> None:
    # What a GPU machine without Ray has not.
    from benchmarks import workspace

    with workspace.make("benchmarks.engine", options.folder) as space:
        from benchmarks.engine_served import MODEL, replica_memory_mib, served

        kind = options.quantize[0]
        with served(space.home, kind, psutil.cpu_count() or 1, options.speculate) as url:
            compare_sides(
                options, [OverHttp(kind, url, MODEL)], {"through": "HTTP and Ray Serve"}, replica_memory_mib
            )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.serve:
        _served(options)
    elif options.http:
        compare_sides(options, [OverHttp("ours", options.http, options.model)], {"through": options.http})
    else:
        threads = psutil.cpu_count() or 1
        with loaded(model_path(options), configs(options, threads)) as (servers, memory):
            compare_sides(options, servers, {"through": "nothing", "memory_mib": memory})
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--json", type=Path, help="write the result here")
    add("--rounds", type=int, default=3, help="measurements of each side")
    add(
        "--quantize",
        nargs="+",
        default=["int8", "none"],
        choices=KINDS,
        help="ours; the first has the targets",
    )
    add(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="transformers', and ours of `none`",
    )
    add("--random", choices=sorted(SIZES), help="a Llama of this size with random weights, not quantised")
    add("--device", default="cpu", help="of both in this process: cpu, cuda, cuda:N or auto")
    add("--alone", action="store_true", help="on a GPU: with and without graphs, no transformers")
    add("--speculate", type=int, default=5, help="ours: tokens guessed at most; 0: none")
    add("--folder", type=Path, default=Path("out/benchmarks"), help="a folder on a real disk")
    add("--serve", action="store_true", help="ours on a Ray Serve of its own, through HTTP")
    add("--http", metavar="URL", help="ours at this address, without /v1")
    add("--model", default="smollm2", help="its name there")
    add("--peer", metavar="NAME=URL", action="append", default=[], help="another server, under the same load")
    options = parser.parse_args(arguments)
    try:
        options.device = str(choose_device(options.device))
    except InvalidConfig as error:
        parser.error(str(error))
    if options.random:
        # What is made of random weights repeats itself soon, and guesses would nearly all be right.
        options.quantize, options.speculate = ["none"], 0
    if (options.random or options.device != "cpu") and (options.serve or options.http):
        parser.error("--random and --device are about this process: leave --serve and --http out")
    if options.alone and options.device == "cpu":
        parser.error("--alone leaves nothing to compare with on a CPU")
    if options.peer and not (options.serve or options.http):
        parser.error("--peer is over HTTP, so ours has to be too: add --serve or --http")
    if any("=" not in named for named in options.peer):
        parser.error("--peer is NAME=URL")
    return options


if __name__ == "__main__":
    sys.exit(main())
