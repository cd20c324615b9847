"""What `manta doctor` looks at. Each check is a function of the settings and gives one `Check`.

What belongs to the rooms above (sandbox, weight files) is asked of them in a process of its own.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from manta import platform_process
from manta.client import Client
from manta.config import Settings, secret
from manta.errors import MantaError
from manta.machine import GIB, available_memory

PACKAGES = ("ray", "torch", "langchain", "lancedb", "sqlalchemy", "alembic", "ddgs", "pypdf")
_PROBE_TIMEOUT_S = 120
_SANDBOX = """
import json
from manta.messages import to_json
from tools.python_sandbox import probe
print(json.dumps(to_json(probe())))
"""
_WEIGHTS = """
import json
from manta.errors import MantaError
from serve_app.engine.weights import verify_embedded
try:
    verify_embedded()
    print(json.dumps({}))
except MantaError as error:
    print(json.dumps(error.to_json()))
"""
_KEYS = """
import json, sys
from coordinator.key_check import check_keys
from manta.config import Settings
from manta.errors import MantaError
try:
    check_keys(Settings.model_validate_json(sys.stdin.read()))
    print(json.dumps({}))
except MantaError as error:
    print(json.dumps(error.to_json()))
"""


@dataclass(frozen=True, slots=True)
class Check:
    """`fix` is what to do about a warn or a fail."""

    name: str
    state: Literal["ok", "warn", "fail", "skip"]
    detail: str
    fix: str = ""


def all_checks(settings: Settings) -> list[Callable[[], Check]]:
    """The checks in the order in which a broken machine would be mended."""
    up = platform_process.running(settings.home)
    return [
        check_python,
        check_packages,
        lambda: check_memory(available_memory(), up is not None),
        lambda: check_home(settings.home),
        lambda: check_disk(settings.home),
        lambda: check_port(settings, up is not None),
        lambda: check_keys(settings),
        check_sandbox,
        lambda: check_models(settings),
        lambda: check_gpu(settings),
        lambda: check_platform(up),
        lambda: check_token(up),
    ]


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    text = ".".join(map(str, version))
    if (3, 11) <= version <= (3, 13):
        return Check("python", "ok", text)
    return Check("python", "fail", f"{text} is not supported", "use Python 3.11, 3.12 or 3.13")


def check_packages() -> Check:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            "packages",
            "fail",
            f"missing: {', '.join(missing)}",
            "pip install 'manta[platform]', or make setup",
        )
    return Check(
        "packages", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    )


def check_memory(available: int, platform_up: bool) -> Check:
    text = f"{available / GIB:.1f} GiB available"
    if platform_up or available >= 4 * GIB:
        return Check("memory", "ok", text)
    fix = "end other programs; the platform and a run take up to 3.5 GiB"
    return Check("memory", "warn" if available >= 3 * GIB else "fail", text, fix)


def check_home(home: Path) -> Check:
    nearest = next(p for p in (home, *home.parents) if p.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Check("home", "ok", str(home))
    return Check(
        "home", "fail", f"{nearest} is not a writable folder", "choose another: --home DIR or MANTA_HOME"
    )


def check_disk(home: Path) -> Check:
    nearest = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(nearest).free
    text = f"{free / GIB:.1f} GiB free at {nearest}"
    if free >= 5 * GIB:
        return Check("disk", "ok", text)
    return Check(
        "disk", "warn" if free >= GIB else "fail", text, "free some space, or choose another: --home DIR"
    )


def check_port(settings: Settings, platform_up: bool) -> Check:
    port = settings.server.port
    if platform_up:
        return Check("port", "ok", "held by the running platform")
    try:
        platform_process.check_port(settings.server.host, port)
    except MantaError as error:
        return Check("port", "fail", error.message, error.fix)
    return Check("port", "ok", f"{port} is free")


def check_keys(settings: Settings) -> Check:
    """Others than this machine may reach the gateway only with keys."""
    if settings.server.on_loopback:
        return Check("keys", "skip", "the gateway is on loopback: it starts without")
    # Not in the command line, which everybody can read: the journal's address may hold a password.
    answer = _ask(_KEYS, settings.model_dump_json())
    if isinstance(answer, str):
        return Check("keys", "fail", answer, "pip install 'manta[platform]', or make setup")
    if answer:
        return Check("keys", "fail", answer["message"], answer["fix"])
    return Check("keys", "ok", f"{settings.server.host} is reached with a key")


def check_sandbox() -> Check:
    answer = _ask(_SANDBOX)
    if isinstance(answer, str):
        return Check("sandbox", "fail", answer, "pip install 'manta[platform]', or make setup")
    backends = answer["backends"]
    works = [b["name"] for b in backends if b["works"]]
    if works:
        return Check("sandbox", "ok", works[0])
    reasons = "; ".join(f"{b['name']}: {b['reason']}" for b in backends)
    fixes = ", or ".join(b["fix"] for b in backends if b["fix"])
    return Check("sandbox", "fail", reasons, fixes)


def check_models(settings: Settings) -> Check:
    """Keys of remote models, files of local ones, and the embedded weights against their hashes."""
    for name, model in settings.models.items():
        try:
            if model.api_key_env:
                secret(model.api_key_env)
        except MantaError as error:
            return Check("models", "fail", f"{name}: {error.message}", error.fix)
        if model.backend == "torch" and model.source != "embedded":
            path = settings.project / Path(model.source).expanduser()
            if not path.exists():
                return Check("models", "fail", f"{name}: there is no {path}", "mend models in manta.yaml")
    local = [m for m in settings.models.values() if m.backend == "torch" and m.source == "embedded"]
    if not local and settings.embedder.source != "embedded":
        return Check("models", "ok", ", ".join(sorted(settings.models)))
    answer = _ask(_WEIGHTS)
    if isinstance(answer, str):
        return Check("models", "fail", answer, "make setup")
    if answer:
        return Check("models", "fail", answer["message"], answer["fix"])
    return Check("models", "ok", f"{', '.join(sorted(settings.models))}; embedded weights are as released")


def check_gpu(settings: Settings) -> Check:
    wanted = max((m.replicas.num_gpus for m in settings.models.values()), default=0)
    found = _gpus()
    if found:
        return Check("gpu", "ok", ", ".join(found))
    if wanted:
        fix = "install the NVIDIA driver, or set num_gpus: 0"
        return Check("gpu", "fail", f"a model asks for {wanted:g} GPUs, nvidia-smi shows none", fix)
    return Check("gpu", "skip", "none, and none is asked for: models run on the CPU")


def check_platform(up: platform_process.PlatformInfo | None) -> Check:
    if up is None:
        return Check("platform", "skip", "not running", "manta up")
    try:
        with Client(up.address) as client:
            readiness = client.ready()
    except MantaError as error:
        return Check("platform", "fail", error.message, "manta logs; manta down; manta up")
    bad = [f"{name} {part.state}" for name, part in readiness.components.items() if part.state != "ready"]
    if readiness.ready:
        return Check("platform", "ok", f"ready at {up.address}")
    return Check("platform", "fail", f"not ready: {', '.join(bad)}", "manta logs")


def check_token(up: platform_process.PlatformInfo | None) -> Check:
    if up is None or not up.token_path:
        return Check("token", "skip", "made when the platform starts")
    try:
        mode = stat.S_IMODE(Path(up.token_path).stat().st_mode)
    except OSError as error:
        return Check("token", "fail", f"{up.token_path}: {error.strerror}", "manta down; manta up")
    if mode & 0o077:
        return Check("token", "fail", f"{up.token_path} has mode {mode:04o}", f"chmod 600 {up.token_path}")
    return Check("token", "ok", f"{up.token_path} is for its owner alone")


def _gpus() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return (
        [line.strip() for line in answer.stdout.splitlines() if line.strip()]
        if answer.returncode == 0
        else []
    )


def _ask(program: str, given: str = "") -> Any:
    """The JSON that a small Python program prints to what it is `given`; the last line of its complaint as text."""
    command = [sys.executable, "-c", program]
    try:
        answer = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if answer.returncode != 0:
        return (answer.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    return json.loads(answer.stdout.strip().splitlines()[-1])
