"""`python -m serve_app up`: the platform's own process. `manta up` starts it and watches it come up."""

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from manta.config import Settings, child_environment, load_settings
from manta.errors import MantaError
from manta.telemetry import configure_logging

READY = "MANTA_ENVIRONMENT_SET"

app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def main() -> None:
    """Manta's server side."""


@app.command()
def up(
    config: Annotated[Path | None, typer.Option(help="Settings file.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of the journal, documents, logs.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the HTTP gateway.")] = None,
    address: Annotated[str, typer.Option(help="A running Ray to attach to; empty starts one.")] = "",
) -> None:
    """Start the platform and stay until told to stop by SIGTERM or Ctrl-C."""
    wanted = {"home": home and str(home), "server.port": port, "ray.address": address}
    overrides: dict[str, Any] = {key: value for key, value in wanted.items() if value}
    try:
        settings = load_settings(config, overrides=overrides)
        _with_ray_environment(settings)
        configure_logging(settings.log_level)
        from serve_app.supervisor import Supervisor

        Supervisor(settings).run()
    except MantaError as error:
        typer.echo(f"error: {error}", err=True)
        sys.stderr.flush()
        # Not by Ray's own way out, which waits long for a Ray that has died.
        os._exit(1)


@app.command("verify-models")
def verify_models() -> None:
    """Check the embedded models' files against their published hashes."""
    from serve_app.engine.weights import verify_embedded

    try:
        verify_embedded()
    except MantaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _with_ray_environment(settings: Settings) -> None:
    """Ray reads its environment when it is imported, so this process starts itself again with it set."""
    variables = ray_environment(settings)
    environment = child_environment(**variables)
    if environment.get(READY) == "1":
        return
    os.execve(sys.executable, [sys.executable, "-m", "serve_app", *sys.argv[1:]], {**environment, READY: "1"})


def ray_environment(settings: Settings) -> dict[str, str]:
    """Token authentication on, usage statistics off, and nothing started that a small machine does not need."""
    own = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not settings.ray.address:
        own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(make_token(settings.home))}
    return own


def make_token(home: Path) -> Path:
    """The token of our own Ray, made on first use; readable by its owner alone."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / "ray_token"
    if not path.exists():
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        os.write(descriptor, secrets.token_hex(32).encode())
        os.close(descriptor)
    return path


if __name__ == "__main__":
    app()
