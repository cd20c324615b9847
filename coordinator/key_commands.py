"""`python -m coordinator keys`: makes and ends API keys, beside a running platform or before the first one."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from coordinator.api_keys import DEFAULT_SCOPES
from coordinator.opened import opened_journal
from coordinator.store.journal import Journal
from coordinator.store.key_records import KeyLimits, KeyRecord, KeyUsage, NewKey, Scope
from coordinator.store.retention import DAY_S
from manta.clock import SystemClock
from manta.config import Settings, load_settings
from manta.errors import InvalidInput, MantaError
from manta.ids import DEFAULT_TENANT, Tenant
from manta.messages import to_json

T = TypeVar("T")
Config = Annotated[Path | None, typer.Option(help="Settings file.")]
Home = Annotated[Path | None, typer.Option(help="Folder of the journal.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Key = Annotated[str, typer.Argument(metavar="ID", help="The key's id.")]

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    tenant: Annotated[str, typer.Option(help="Whose runs, threads and items it sees.")] = DEFAULT_TENANT,
    scope: Annotated[list[str] | None, typer.Option(help="May be given again.")] = None,
    expires_days: Annotated[float | None, typer.Option(help="It holds for so many days.")] = None,
    limits: Annotated[str, typer.Option(help="As JSON, by the names of `KeyLimits`.")] = "{}",
    config: Config = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Its text is the only line on stdout, and is never shown again."""
    wanted: Any = tuple(scope or DEFAULT_SCOPES)
    expires_at = None if expires_days is None else SystemClock().now() + expires_days * DAY_S

    async def work(journal: Journal) -> NewKey:
        return await journal.keys.create(Tenant(tenant), name, wanted, expires_at, _limits(limits))

    _tell(_on_journal(work, config, home, may_be_new=True), as_json=as_json)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    config: Config = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Keys, the newest first, and what went over their names today and this month; never secrets."""

    async def work(journal: Journal) -> list[tuple[KeyRecord, tuple[KeyUsage, KeyUsage]]]:
        keys = await journal.keys.list(Tenant(tenant) if tenant is not None else None)
        return [(key, await journal.keys.usage(key.tenant, key.principal)) for key in keys]

    found = _on_journal(work, config, home)
    now = SystemClock().now()
    if as_json:
        told = [
            {**_plain(key, now), "today": _used(usage[0]), "this_month": _used(usage[1])}
            for key, usage in found
        ]
        typer.echo(json.dumps(told))
        return
    for line in _table([_row(key, usage, now) for key, usage in found]):
        typer.echo(line)


@app.command()
def rotate(
    key: Key,
    grace_hours: Annotated[float, typer.Option(help="The old secret holds for so long.")] = 24.0,
    config: Config = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """A new secret for a key; the old one holds for a while. Told as by `create`."""

    async def work(journal: Journal) -> NewKey:
        return await journal.keys.rotate(key, grace_hours * 3600)

    _tell(_on_journal(work, config, home), as_json=as_json)


@app.command()
def revoke(
    key: Key,
    after_days: Annotated[float | None, typer.Option(help="Let it expire instead.")] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Delete it.")] = False,
    config: Config = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """End a key: gateways that run hear of it within seconds."""

    async def work(journal: Journal) -> KeyRecord:
        if after_days is not None:
            return await journal.keys.expire(key, SystemClock().now() + after_days * DAY_S)
        record = await journal.keys.revoke(key)
        if forget:
            await journal.keys.forget(key)
        return record

    record = _on_journal(work, config, home)
    state = _plain(record, SystemClock().now())
    words = "expires" if after_days is not None else "forgotten" if forget else "revoked"
    typer.echo(json.dumps(state) if as_json else f"{words}: {record.id} of {record.principal}")


def _limits(text: str) -> KeyLimits:
    try:
        return KeyLimits(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"--limits cannot be read: {error}", fix="see `manta keys create --help`"
        ) from None


def _on_journal(
    work: Callable[[Journal], Awaitable[T]],
    config: Path | None,
    home: Path | None,
    *,
    may_be_new: bool = False,
) -> T:
    try:
        settings = load_settings(config, overrides={"home": str(home)} if home else None)
        return asyncio.run(_opened(work, settings, may_be_new=may_be_new))
    except MantaError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None


async def _opened(work: Callable[[Journal], Awaitable[T]], settings: Settings, *, may_be_new: bool) -> T:
    async with opened_journal(settings, may_be_new=may_be_new) as journal:
        return await work(journal)


def _tell(made: NewKey, *, as_json: bool) -> None:
    record = made.record
    if as_json:
        typer.echo(json.dumps({"key": made.text, **_plain(record, SystemClock().now())}))
        return
    about = f"key {record.id} of {record.principal} ({', '.join(record.scopes)})"
    typer.echo(f"{about}; it is not shown again:", err=True)
    typer.echo(made.text)


def _plain(record: KeyRecord, now: float) -> dict[str, Any]:
    return {**to_json(record), "state": record.state(now)}


def _used(usage: KeyUsage) -> dict[str, Any]:
    return {"requests": usage.requests, "tokens": usage.spent.tokens, "money": usage.spent.micros / 1e6}


_HEADS = ("id", "name", "tenant", "state", "expires", "last used", "tokens today", "this month", "scopes")


def _row(key: KeyRecord, usage: tuple[KeyUsage, KeyUsage], now: float) -> tuple[str, ...]:
    scopes: Sequence[Scope] = key.scopes
    times = (_time(key.expires_at), _time(key.last_used_at))
    tokens = (str(each.spent.tokens) for each in usage)
    return (key.id, key.principal, key.tenant, key.state(now), *times, *tokens, ",".join(scopes))


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    whole = [_HEADS, *rows]
    widths = [max(len(row[column]) for row in whole) for column in range(len(_HEADS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in whole
    ]


def _time(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).isoformat(" ", "minutes")[:16]
