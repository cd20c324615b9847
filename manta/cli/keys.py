"""`manta keys`: who may use the gateway. Each is a process of the coordinator's, with or without a platform."""

import json
from typing import Annotated, Any

import typer

from manta.cli.common import ErrorLines
from manta.cli.on_journal import run_on_journal

KeyArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The key's id, as `manta keys list` shows it.")
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Default: no limit.")]
Money = Annotated[float | None, typer.Option(min=0, help="In the unit that prices are given in.")]

app = typer.Typer(
    cls=ErrorLines, no_args_is_help=True, help="API keys of the gateway: who may come in, and take how much."
)


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is; its runs go by this name.")],
    tenant: Annotated[str, typer.Option(help="Whose runs, threads and items it sees.")] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="runs:read, runs:write, chat, models:write or admin; may be given again. Default: the first three."
        ),
    ] = None,
    expires_days: Annotated[float | None, typer.Option(help="It holds for so many days.")] = None,
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
    concurrent_runs: Limit = None,
    tokens_per_day: Limit = None,
    tokens_per_month: Limit = None,
    money_per_day: Money = None,
    money_per_month: Money = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its text is the only line on stdout, and is never shown again.

    Works before the first `manta up`, and beside a running platform, which takes the key at once.

    Examples:

      manta keys create ann

      manta keys create bot --scope chat --tokens-per-minute 20000 --expires-days 90
    """
    limits = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent_runs": concurrent_runs,
        "tokens_per_day": tokens_per_day,
        "tokens_per_month": tokens_per_month,
        "money_per_day": money_per_day,
        "money_per_month": money_per_month,
    }
    words = ["--tenant", tenant, "--limits", json.dumps(limits)]
    words += [word for wanted in scope or () for word in ("--scope", wanted)]
    words += _given(expires_days=expires_days)
    _run(ctx, "create", [*words, *_json(as_json)], name)


@app.command("list")
def list_keys(
    ctx: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    as_json: Json = False,
) -> None:
    """Keys, the newest first, and what went over their names today and this month; never secrets."""
    _run(ctx, "list", [*_given(tenant=tenant), *_json(as_json)])


@app.command()
def rotate(
    ctx: typer.Context,
    key: KeyArgument,
    grace_hours: Annotated[float, typer.Option(help="The old secret holds for so long.", min=0)] = 24.0,
    as_json: Json = False,
) -> None:
    """Give a key a new secret; the old one holds for a while. Told as by `create`."""
    _run(ctx, "rotate", [*_given(grace_hours=grace_hours), *_json(as_json)], key)


@app.command()
def revoke(
    ctx: typer.Context,
    key: KeyArgument,
    after_days: Annotated[float | None, typer.Option(help="Let it expire instead.", min=0.0001)] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete it. Without any key a gateway on loopback is open again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """End a key: gateways that run hear of it within seconds."""
    words = [*_given(after_days=after_days), *(["--forget"] if forget else []), *_json(as_json)]
    _run(ctx, "revoke", words, key)


def _run(ctx: Any, command: str, words: list[str], *arguments: str) -> None:
    run_on_journal(ctx, f"keys {command}", *words, arguments=arguments)


def _json(wanted: bool) -> list[str]:
    return ["--json"] if wanted else []


def _given(**options: Any) -> list[str]:
    """Options that are set, as words."""
    given = {f"--{name.replace('_', '-')}": value for name, value in options.items() if value is not None}
    return [word for name, value in given.items() for word in (name, str(value))]
