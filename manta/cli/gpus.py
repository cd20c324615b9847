"""`manta gpus`: what a model needs, on which GPU, how fast it is there and what it costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from manta.cli.common import Session, say, say_json, say_table, session
from manta.errors import InvalidInput, MantaError, NotFound
from manta.machine import available_memory
from manta.model_settings import EMBEDDED, ModelSettings
from manta.sizing.calibration import NAME, calibrate, load, save
from manta.sizing.catalogue import EMBEDDED_MODEL, MODELS
from manta.sizing.devices import GPUS, Device, gpu
from manta.sizing.explain import explain
from manta.sizing.model_files import shape_of_file
from manta.sizing.plan import GIB, Load, Misfit, Plan, Policy, plan
from manta.sizing.shapes import ModelShape


def gpus(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A known model, a torch or server model of manta.yaml, a config.json or its folder, a .gguf."
        ),
    ] = EMBEDDED_MODEL,
    input_tokens: Annotated[int, typer.Option(help="Of a request, on average.")] = 1000,
    output_tokens: Annotated[int, typer.Option(help="Of an answer, on average.")] = 200,
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 1.0,
    context: Annotated[
        int, typer.Option(help="Tokens the longest request may have. Default: the average.")
    ] = 0,
    on: Annotated[
        list[str] | None, typer.Option("--gpu", help="Only these; `this-machine` is the calibrated one.")
    ] = None,
    price: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PRICE", help="Of one GPU for an hour, as H100=2.5.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Weights: bf16, fp8, int8, int4, fp32.")] = "bf16",
    kv_dtype: Annotated[str, typer.Option(help="KV memory. Default: bf16, or fp32 with fp32 weights.")] = "",
    tensor_parallel: Annotated[int, typer.Option(help="GPUs of one replica. Default: what costs least.")] = 0,
    max_gpus: Annotated[int, typer.Option(help="GPUs of one replica at most.")] = 8,
    max_batch: Annotated[int, typer.Option(help="Requests at once on a replica at most.")] = 256,
    token_ms: Annotated[float, typer.Option(help="Milliseconds between two tokens at most.")] = 0,
    utilisation: Annotated[float, typer.Option(help="Of a replica's most, to plan with.")] = 0.7,
    memory_share: Annotated[float, typer.Option(help="Of a GPU's memory, to use.")] = 0.9,
    measure: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine first; takes some seconds.")
    ] = False,
    explained: Annotated[
        bool, typer.Option("--explain", help="Each formula with its numbers and sources.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What fits on which GPU for a model and a load, how fast it will be and what it costs.

    An estimate from data sheets: within a third of what was measured where it could be checked.

    Examples:

      manta gpus llama-3.1-8b --rate 5 --price H100=2.5 --price L4=0.8

      manta gpus llama-3.1-70b --dtype fp8 --context 32000 --gpu H100 --explain

      manta gpus --calibrate --dtype fp32 --gpu this-machine
    """
    shape = find_shape(model, session(ctx))
    kv = kv_dtype or ("fp32" if dtype == "fp32" else "bf16")
    load_asked = Load(input_tokens, output_tokens, rate, context)
    policy = Policy(dtype, kv, memory_share, utilisation, max_batch, token_ms, tensor_parallel, max_gpus)
    devices = find_devices(on or [], shape, session(ctx), measure)
    prices = read_prices(price or [])
    found = [plan(shape, each, load_asked, policy, prices.get(each.name)) for each in devices]
    plans = [each for each in found if isinstance(each, Plan)]
    misfits = [each for each in found if isinstance(each, Misfit)]
    plans.sort(key=lambda each: (each.cost_per_1000 is None, each.cost_per_1000 or 0, each.gpus))
    if as_json:
        say_json(to_json(shape, plans, misfits))
    else:
        _show(shape, plans, misfits, policy, explained)
    if not plans:
        raise _nothing_fits(shape, misfits)


def find_shape(model: str, asked: Session) -> ModelShape:
    """By path, by known name, by name in the settings. Raises NotFound, or InvalidInput for a broken file."""
    if Path(model).exists():
        return shape_of_file(Path(model))
    if model.lower() in MODELS:
        return MODELS[model.lower()]
    settings = asked.settings().models.get(model)
    if settings is not None:
        return _configured(model, settings)
    fix = f"a path, or one of: {', '.join(MODELS)}"
    raise NotFound(f"no model {model!r} is known", fix=fix, code="unknown_model")


def _configured(name: str, settings: ModelSettings) -> ModelShape:
    if settings.backend not in ("torch", "server"):
        raise InvalidInput(
            f"model {name!r} runs elsewhere (backend {settings.backend})", fix="name its shape"
        )
    if settings.backend == "torch" and settings.source == EMBEDDED:
        return MODELS[EMBEDDED_MODEL]
    return shape_of_file(Path(settings.source))


def find_devices(names: Sequence[str], shape: ModelShape, asked: Session, measure: bool) -> list[Device]:
    """The GPUs named, or all; this machine where it was measured. Raises NotFound."""
    file = asked.settings().home / "calibration.json"
    if measure:
        save(calibrate(shape, available_memory()), file)
    measured = load(file)
    here = [] if measured is None else [measured.device()]
    if not names:
        return [*GPUS.values(), *here]
    if NAME in names and not here:
        raise NotFound("this machine was not measured", fix="add --calibrate", code="not_calibrated")
    return [here[0] if name == NAME else gpu(name) for name in names]


def read_prices(given: Sequence[str]) -> dict[str, float]:
    """By the GPU's name. Raises InvalidInput."""
    prices = {}
    for each in given:
        name, _, amount = each.partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise InvalidInput(f"no price: {each!r}", fix="as --price H100=2.5")
        prices[NAME if name == NAME else gpu(name).name] = value
    return prices


def to_json(shape: ModelShape, plans: Sequence[Plan], misfits: Sequence[Misfit]) -> dict[str, Any]:
    return {
        "model": {"name": shape.name, "parameters": shape.parameters, "source": shape.source},
        "plans": [_plan_json(each) for each in plans],
        "misfits": [
            {"gpu": each.device.name, "reason": each.reason, "missing_bytes": round(each.missing)}
            for each in misfits
        ],
    }


def _plan_json(each: Plan) -> dict[str, Any]:
    replica = each.replica
    return {
        "gpu": replica.device.name,
        "tensor_parallel": replica.gpus,
        "replicas": each.replicas,
        "gpus": each.gpus,
        "weight_bytes": round(replica.shape.weight_bytes(replica.dtype)),
        "kv_bytes_per_token": round(replica.shape.kv_bytes(replica.kv_dtype)),
        "batch": each.batch,
        "requests_per_s": each.most,
        "output_tokens_per_s": each.tokens_per_s,
        "utilisation": each.utilisation,
        "first_token_ms": each.first_token_s * 1000,
        "token_ms": each.token_s * 1000,
        "cost_per_1000_requests": each.cost_per_1000,
        "cost_per_million_tokens": each.cost_per_million_tokens,
        "formulas": [line.to_json() for line in explain(each)],
    }


def _show(
    shape: ModelShape, plans: Sequence[Plan], misfits: Sequence[Misfit], policy: Policy, explained: bool
) -> None:
    weights = shape.weight_bytes(policy.dtype) / GIB
    say(
        f"{shape.name}: {shape.parameters / 1e9:.2f} billion parameters, {weights:.2f} GiB of weights in "
        f"{policy.dtype}, {shape.kv_bytes(policy.kv_dtype):,.0f} bytes of KV for each token"
    )
    if plans:
        say_table(_table(plans))
    for each in misfits:
        say(f"{each.device.name}: does not fit: {each.reason}")
    for found in plans if explained else ():
        say("")
        say(f"{found.replica.device.name} ({found.replica.device.source})", style="bold")
        for line in explain(found):
            source = f"  [{line.source}]" if line.source else ""
            value = f" = {line.value}" if line.value else ""
            say(f"  {line.name}: {line.formula}: {line.numbers}{value}{source}")


def _table(plans: Sequence[Plan]) -> Table:
    table = Table()
    table.add_column("GPU", no_wrap=True)
    for heading in (
        "replicas",
        "GPUs each",
        "at once",
        "requests/s each",
        "tokens/s each",
        "busy",
        "first token",
        "per token",
        "1,000 requests",
        "million tokens",
    ):
        table.add_column(heading, justify="right")
    for each in plans:
        table.add_row(
            each.replica.device.name,
            str(each.replicas),
            str(each.replica.gpus),
            str(each.batch),
            f"{each.most:.2f}",
            f"{each.tokens_per_s:,.0f}",
            f"{each.utilisation:.0%}",
            f"{each.first_token_s * 1000:,.0f} ms",
            f"{each.token_s * 1000:.1f} ms",
            _money(each.cost_per_1000),
            _money(each.cost_per_million_tokens),
        )
    return table


def _money(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:.3f}"


def _nothing_fits(shape: ModelShape, misfits: Sequence[Misfit]) -> MantaError:
    lacking = [each for each in misfits if each.missing > 0]
    if lacking:
        nearest = min(lacking, key=lambda each: each.missing)
        cause = f"nearest is {nearest.device.name}: {nearest.reason}"
    else:
        cause = "; ".join(f"{each.device.name}: {each.reason}" for each in misfits)
    return InvalidInput(
        f"{shape.name} fits on none of them; {cause}",
        fix="narrower weights (--dtype fp8, int4), a shorter --context, or other GPUs",
        code="nothing_fits",
    )
