"""`manta models`: the models of a running platform, their versions, and which of them answers."""

from pathlib import Path
from typing import Annotated

import typer

from manta.cli.common import ErrorLines, say, say_json, session
from manta.cli.model_compare import say_comparison
from manta.cli.model_input import read_changes, read_settings, read_weights
from manta.cli.model_view import plain, say_models, say_status, shares
from manta.cli.model_wait import wait_for_route, wait_for_version
from manta.client import Client
from manta.errors import MantaError
from manta.wire import ModelRoute

app = typer.Typer(
    cls=ErrorLines,
    no_args_is_help=True,
    help="Models of a running platform: add versions, promote, split, compare, roll back, scale.",
)


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names for the shell; nothing when the platform does not answer."""
    try:
        with session(ctx.find_root()).client() as client:
            return [model.name for model in client.models.list() if model.name.startswith(incomplete)]
    except MantaError:
        return []


NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The model's name.", autocompletion=complete_model)
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Wait = Annotated[bool, typer.Option(help="Return once it holds.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait at most; the change goes on.", min=0)]
Keep = Annotated[
    float, typer.Option(help="Seconds that versions without calls stay up, for a quick rollback.", min=0)
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting: --set replicas.max=4.")
]


@app.command("list")
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List models and their versions that are up, and what share of the calls each gets."""
    with session(ctx).client() as client:
        found = client.models.list()
    if as_json:
        for model in found:
            say_json(plain(model))
    elif found:
        say_models(found)
    else:
        say("no models yet; add one: manta models add NAME --source FILE")


@app.command()
def status(ctx: typer.Context, name: NameArgument, as_json: Json = False) -> None:
    """Show a model: its route, its versions with their states, and the routes before."""
    with session(ctx).client() as client:
        model = client.models.get(name)
    if as_json:
        say_json(plain(model))
    else:
        say_status(model)


@app.command()
def add(
    ctx: typer.Context,
    name: NameArgument,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="YAML, as under models.NAME in manta.yaml.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch, server, remote, langchain or sleep.")] = None,
    source: Annotated[str | None, typer.Option(help="Weights: a path or a name.")] = None,
    quantize: Annotated[str | None, typer.Option(help="torch: none, int8, int4 or mixed.")] = None,
    base_url: Annotated[str | None, typer.Option(help="remote: where it is.")] = None,
    model: Annotated[str | None, typer.Option(help="remote, server: its name there.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Variable that holds its key.")] = None,
    context_window: Annotated[int | None, typer.Option(help="In tokens.")] = None,
    ability: Annotated[list[str] | None, typer.Option(help="tools or json; may be given again.")] = None,
    min_replicas: Annotated[int | None, typer.Option("--min", help="Replicas at least.")] = None,
    max_replicas: Annotated[int | None, typer.Option("--max", help="Replicas at most.")] = None,
    num_cpus: Annotated[float | None, typer.Option(help="Of a replica.")] = None,
    num_gpus: Annotated[float | None, typer.Option(help="Of a replica.")] = None,
    extra: Set = None,
    note: Annotated[str, typer.Option(help="In words, for the list.")] = "",
    wait: Wait = True,
    timeout: Timeout = 3600,
    as_json: Json = False,
) -> None:
    """Add a model, or the next version of one.

    A new model answers as soon as it runs. A further version runs beside the others and gets no calls before it is
    promoted or given a share.

    Examples:

      manta models add small --source /models/smollm2-q4.gguf --quantize mixed

      manta models add big --file big.yaml --set replicas.max=4 --note "new tokenizer"
    """
    given = {
        "backend": backend,
        "source": source,
        "quantize": quantize,
        "base_url": base_url,
        "model": model,
        "api_key_env": api_key_env,
        "context_window": context_window,
        "abilities": ability or None,
        "replicas.min": min_replicas,
        "replicas.max": max_replicas,
        "replicas.num_cpus": num_cpus,
        "replicas.num_gpus": num_gpus,
    }
    settings = read_settings(name, file, given, extra or ())
    with session(ctx).client() as client:
        made = client.models.add(name, settings, note=note)
        if wait:
            made = wait_for_version(client, name, made.version, timeout)
    if as_json:
        say_json(plain(made))
        return
    say(f"version {made.version} of {name} {'runs' if wait else 'is on its way'}")
    if not made.share and wait:
        say(f"  give it calls: manta models promote {name} {made.version}")


@app.command()
def promote(
    ctx: typer.Context,
    name: NameArgument,
    version: Annotated[int | None, typer.Argument(help="Default: the newest.", min=1)] = None,
    keep: Keep = 300,
    wait: Wait = True,
    timeout: Timeout = 3600,
    as_json: Json = False,
) -> None:
    """Give one version all calls, once it runs; until then those before it answer, and no call is lost.

    Example: manta models promote small 2
    """
    with session(ctx).client() as client:
        route = client.models.promote(name, version, keep_s=keep)
        _end(client, name, route, wait, timeout, as_json)


@app.command()
def split(
    ctx: typer.Context,
    name: NameArgument,
    weights: Annotated[
        list[str], typer.Argument(metavar="VERSION=SHARE", help="As 1=90 2=10; of their sum.")
    ],
    sticky: Annotated[
        str, typer.Option(help="What meets the same version each time: run, user or none.")
    ] = "run",
    keep: Keep = 300,
    wait: Wait = True,
    timeout: Timeout = 3600,
    as_json: Json = False,
) -> None:
    """Share calls out between versions, which are compared meanwhile.

    Example: manta models split small 1=90 2=10 --sticky user
    """
    asked = read_weights(weights)
    with session(ctx).client() as client:
        route = client.models.split(name, asked, sticky=sticky, keep_s=keep)
        _end(client, name, route, wait, timeout, as_json)


@app.command()
def rollback(
    ctx: typer.Context, name: NameArgument, wait: Wait = True, timeout: Timeout = 3600, as_json: Json = False
) -> None:
    """Go back to the shares of the route before; at once while its versions are still up."""
    with session(ctx).client() as client:
        _end(client, name, client.models.rollback(name), wait, timeout, as_json)


@app.command()
def scale(
    ctx: typer.Context,
    name: NameArgument,
    version: Annotated[int | None, typer.Option(help="Where several have calls.", min=1)] = None,
    min_replicas: Annotated[int | None, typer.Option("--min", help="Replicas at least.")] = None,
    max_replicas: Annotated[int | None, typer.Option("--max", help="Replicas at most.")] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another of replicas: --set target_ongoing=4."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Change how many replicas a version may have.

    Example: manta models scale small --min 1 --max 4
    """
    changes = read_changes({"min": min_replicas, "max": max_replicas}, extra or ())
    with session(ctx).client() as client:
        scaled = client.models.scale(name, version, **changes)
    if as_json:
        say_json(plain(scaled))
        return
    replicas = scaled.settings.get("replicas", {})
    say(f"version {scaled.version} of {name}: {replicas.get('min')} to {replicas.get('max')} replicas")


@app.command()
def remove(
    ctx: typer.Context,
    name: NameArgument,
    version: Annotated[
        int | None, typer.Option(help="Only this one, which must have no calls.", min=1)
    ] = None,
) -> None:
    """Remove a model, or a version of it. Answers that are under way come to their end.

    A model of the settings file is there again at the next start, unless it is removed there too.
    """
    with session(ctx).client() as client:
        client.models.remove(name, version)
    say(f"removed {name}" + (f" version {version}" if version else ""))


@app.command()
def compare(
    ctx: typer.Context,
    name: NameArgument,
    revision: Annotated[
        int | None, typer.Option(help="Of a route, see status. Default: the newest split.", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the versions of a split: failures, times, cost and ratings, and whether they really differ."""
    with session(ctx).client() as client:
        found = client.models.comparison(name, revision)
    if as_json:
        say_json(plain(found))
    else:
        say_comparison(found)


def _end(client: Client, name: str, route: ModelRoute, wait: bool, timeout: float, as_json: bool) -> None:
    if wait:
        route = wait_for_route(client, name, route, timeout)
    if as_json:
        say_json(plain(route))
        return
    told = f"{name}: {shares(route.weights)} (route {route.revision})"
    if route.state == "pending":
        say(f"{told} is to come\n  when: manta models status {name}")
        return
    say(told)
    if len(route.weights) > 1:
        say(f"  compare: manta models compare {name}")
