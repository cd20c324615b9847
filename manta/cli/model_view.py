"""How models, their versions and routes are shown."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from manta.cli.common import say, say_table
from manta.messages import to_json
from manta.wire import Model, ModelRoute, ModelVersion

_STYLES = {"running": "green", "failed": "red", "down": "dim", "going": "dim"}


def plain(value: Any) -> Any:
    """For programs: times as in ISO 8601."""
    return json.loads(json.dumps(to_json(value), default=lambda at: at.isoformat()))


def shares(weights: Mapping[int, int]) -> str:
    """`v1 90 %, v2 10 %`"""
    total = sum(weights.values())
    return ", ".join(f"v{version} {100 * share / total:.4g} %" for version, share in sorted(weights.items()))


def say_models(models: Sequence[Model]) -> None:
    table = Table(
        Column("model", no_wrap=True), "version", "share", "state", "replicas", "backend", "source", "note",
        box=None, pad_edge=False,
    )  # fmt: skip
    for model in models:
        name = f"{model.name} (default)" if model.default else model.name
        shown = [version for version in model.versions if version.state != "down"]
        for version in shown:
            table.add_row(Text(name), str(version.version), *_cells(version))
        if not shown:
            table.add_row(Text(name), "", "", Text("down", style="dim"))
    say_table(table)
    for model in models:
        for line in _troubles(model):
            say(line)


def say_status(model: Model) -> None:
    say(f"model    {model.name}{' (default)' if model.default else ''}")
    say(f"route    {_route(model.route) if model.route else 'none: nothing of it answers'}")
    if model.pending:
        say(f"to come  {_route(model.pending)}")
    table = Table(
        "version", "share", "state", "replicas", "backend", "source", "note", "made", "stays until",
        box=None, pad_edge=False,
    )  # fmt: skip
    for version in model.versions:
        made = f"{_time(version.created_at)} {version.created_by or version.source}"
        table.add_row(str(version.version), *_cells(version), Text(made), _time(version.down_at))
    say_table(table)
    for line in _troubles(model):
        say(line)
    if model.history:
        say("routes")
    for route in model.history:
        say(f"  {_route(route)}")


def _cells(version: ModelVersion) -> list[str | Text]:
    settings = version.settings
    replicas = settings.get("replicas") or {}
    return [
        f"{100 * version.share:.4g} %" if version.share else "-",
        Text(version.state, style=_STYLES.get(version.state, "yellow")),
        f"{version.replicas} of {replicas.get('min', 1)}-{replicas.get('max', 1)}",
        str(settings.get("backend", "torch")),
        Text(str(settings.get("base_url") or settings.get("source") or "")),
        Text(version.note),
    ]


def _troubles(model: Model) -> list[str]:
    lines = [
        f"{model.name} version {version.version} {version.state}: {' '.join(version.message.split())}"
        for version in model.versions
        if version.message and version.state != "down"
    ]
    if model.pending:
        lines.append(f"{model.name}: {shares(model.pending.weights)} as soon as they run")
    return lines


def _route(route: ModelRoute) -> str:
    parts = [f"{route.revision}", route.state, shares(route.weights)]
    if len(route.weights) > 1:
        parts.append(f"sticky by {route.sticky}" if route.sticky != "none" else "not sticky")
    by = f" by {route.created_by}" if route.created_by else ""
    parts.append(f"{route.why}{by} {_time(route.created_at)}")
    if route.error:
        parts.append(" ".join(route.error.split()))
    return "  ".join(parts)


def _time(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone():%Y-%m-%d %H:%M}"
