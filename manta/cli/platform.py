"""`up`, `down`, `status`: the platform on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from manta import platform_process
from manta.cli.common import Session, say, say_json, session
from manta.config import Settings
from manta.errors import PlatformError
from manta.messages import to_json
from manta.platform_process import PlatformInfo, Progress

_MARKS = {"ready": "✓", "failed": "✗"}


def up(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file.")] = None,
    address: Annotated[str, typer.Option(help="Attach to this Ray cluster instead of starting one.")] = "",
    port: Annotated[int | None, typer.Option(help="HTTP port. Default: 8000.", min=1, max=65535)] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Where everything is kept.")] = None,
) -> None:
    """Start the platform and return once it is ready. Runs that were cut off go on.

    Examples:

      manta up

      manta up --port 8001 --config my/manta.yaml

      manta up --address ray-head:6379
    """
    base = session(ctx)
    overrides: dict[str, Any] = {"server.port": port} if port is not None else {}
    if address:
        overrides |= {"ray.address": address}
    wanted = Session(config or base.config, home or base.home, overrides=overrides)
    info, started = bring_up(wanted, to_stderr=False)
    say(f"{'ready' if started else 'already running'} at {info.address}")
    if info.dashboard:
        say(f"Ray dashboard: {info.dashboard}")
    say("stop it with: manta down")


def bring_up(wanted: Session, *, to_stderr: bool) -> tuple[PlatformInfo, bool]:
    """The platform of these settings, started if it is not there; and whether it was started now."""
    settings = wanted.settings()
    found = platform_process.running(settings.home)
    if found is not None:
        platform_process.check_alive(found)
        return found, False
    say(f"starting the platform in {settings.home}", to_stderr=to_stderr)
    config = wanted.config or _settings_file(settings)
    info = platform_process.start(
        settings,
        config=config,
        on_progress=lambda progress: say(progress_line(progress), to_stderr=to_stderr),
    )
    return info, True


def progress_line(progress: Progress) -> str:
    mark = _MARKS.get(progress.state, "·")
    detail = f"  {progress.detail}" if progress.detail else ""
    return f"  {mark} {progress.seconds:5.1f} s  {progress.component} {progress.state}{detail}"


def down(
    ctx: typer.Context,
    home: Annotated[Path | None, typer.Option("--home", help="Whose platform.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until it is ended by force.", min=0)] = 30.0,
) -> None:
    """Stop the platform and wait until no process of it is left. Unfinished runs go on at the next start."""
    settings = Session(session(ctx).config, home or session(ctx).home).settings()
    stopped = platform_process.stop(settings.home, timeout)
    say("stopped" if stopped else f"nothing runs in {settings.home}")


def status(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Is the platform up, and are its parts? Exit status 1 when not."""
    with session(ctx).client() as client:
        readiness = client.ready()
        address = client.base_url
    if as_json:
        say_json({"address": address, **to_json(readiness)})
    else:
        say(f"{'ready' if readiness.ready else 'not ready'} at {address}")
        for name, part in sorted(readiness.components.items()):
            detail = f" ({part.detail})" if part.detail else ""
            say(f"  {_MARKS.get(part.state, '·')} {name}: {part.state}{detail}")
    if not readiness.ready:
        raise PlatformError("some components are not ready", fix="manta logs", code="not_ready")


def _settings_file(settings: Settings) -> Path | None:
    # The supervisor is told the file that was read here: its own folder may be another.
    return settings.project / "manta.yaml" if settings.ships_code else None
