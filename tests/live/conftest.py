"""One real platform for all tests of this folder: Ray, Serve, the embedded model, the journal."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from manta.client import Client
from manta.config import Settings, load_settings
from manta.errors import PlatformError
from manta.faults import read_ledger
from manta.platform_process import log_file, running, start, stop

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0


@dataclass(frozen=True)
class LivePlatform:
    settings: Settings
    config: Path
    ledger: Path

    @property
    def url(self) -> str:
        return self.settings.address

    @property
    def home(self) -> Path:
        return self.settings.home

    def client(self) -> Client:
        return Client(self.url)

    def processes(self, title: str) -> list[psutil.Process]:
        """The platform's processes whose title begins so, `ray::CoordinatorActor` say."""
        info = running(self.home)
        assert info is not None, "the platform is not running"
        found = []
        for process in psutil.Process(info.pid).children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def notes(self, kind: str, run: str) -> list[dict[str, object]]:
        """Lines of the ledger of side effects for one run."""
        return [line for line in read_ledger(self.ledger) if line["kind"] == kind and line.get("run") == run]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> object:
    """Wait for a condition; fail with its description after a generous deadline."""
    deadline = time.monotonic() + patience_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come true in {patience_s:.0f} s"
        time.sleep(0.1)


def lean(extra: Mapping[str, object]) -> dict[str, object]:
    """These settings without what a start need not wait for: the embedded model, the agents of the main job, the
    dashboard.

    Args:
        extra: has `models`, of which the first is the default one.
    """
    models, agents, ray = (dict(extra.get(key, {})) for key in ("models", "agents", "ray"))  # type: ignore[call-overload]
    late = {name: {"prewarm": False} for name in ("planner", "research", "analyst", "writer")}
    return {
        **extra,
        "default_model": next(iter(models)),
        "models": {**models, "smollm2": None},
        "agents": {**late, **agents},
        "ray": {"dashboard": False, "dashboard_port": 0, **ray},
    }


def make_platform(folder: Path, extra: Mapping[str, object], port: int = 0) -> LivePlatform:
    """Settings and folders of a platform that is not started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "manta.yaml"
    config.write_text(yaml.safe_dump({"home": str(folder / "home"), "ray": {"dashboard_port": 0}, **extra}))
    settings = load_settings(config, {}, {"server.port": port or free_port()})
    return LivePlatform(settings, config, folder / "ledger.jsonl")


def bring_up(platform: LivePlatform, **environment: str) -> None:
    """Start it with a ledger; the environment is the supervisor's and so every worker's."""
    saved = dict(os.environ)
    os.environ.update({"MANTA_LEDGER": str(platform.ledger), "VENDOR_KEY": "any", **environment})
    try:
        start(platform.settings, config=platform.config)
    except PlatformError as error:
        pytest.fail(f"{error}\n{log_file(platform.home).read_text()[-3000:]}")
    finally:
        os.environ.clear()
        os.environ.update(saved)


SLOW = {"backend": "sleep", "step_s": [0.05, 0.0], "replicas": {"num_cpus": 0.05}}
ROLLED = {"backend": "sleep", "step_s": [0.02, 0.0], "replicas": {"num_cpus": 0.02}}
SCALING = {
    "backend": "sleep",
    "step_s": [0.02, 0.0],
    "replicas": {
        "min": 1,
        "max": 2,
        "num_cpus": 0.05,
        "target_ongoing": 2,
        "max_ongoing": 8,
        "upscale_delay_s": 1,
        "downscale_delay_s": 3,
    },
}
ON_GPUS = {
    "backend": "sleep",
    "replicas": {"min": 2, "max": 2, "num_cpus": 0.05, "num_gpus": 1, "accelerator_type": "L4"},
}


def _own_server(folder: Path) -> dict[str, object]:
    """A model whose replica has two devices and starts a server over them; see `tests.backends.server_double`."""
    double = [str(ROOT / "tests/backends/server_double.py"), "--notes", str(folder / "server_notes")]
    told = ["--port", "{port}", "--tensor-parallel", "{tensor_parallel}"]
    return {
        "backend": "server",
        "launch": {"command": ["{python}", *double, *told], "grace_s": 1},
        "replicas": {"num_cpus": 0.02, "num_gpus": 2},
    }


def _elsewhere(url: str) -> dict[str, object]:
    """Models of another server, and two where none listens; one of these has a fallback."""
    replicas = {"num_cpus": 0.02}
    return {
        "remote": {"backend": "remote", "base_url": url, "model": "smollm2", "replicas": replicas},
        "nowhere": {
            "backend": "remote",
            "base_url": "http://127.0.0.1:9/v1",
            "retry": {"attempts": 1},
            "replicas": replicas,
        },
        "absent": {
            "backend": "remote",
            "base_url": "http://127.0.0.1:9/v1",
            "fallbacks": ["smollm2"],
            "retry": {"attempts": 2, "first_delay_s": 0.1},
            # Once it is open it stays so.
            "breaker": {"failures": 4, "window_s": 3600, "pause_s": 3600},
            "replicas": replicas,
        },
        "vendor": {
            "backend": "langchain",
            "source": "openai:smollm2",
            "base_url": url,
            "api_key_env": "VENDOR_KEY",
            "replicas": replicas,
        },
    }


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePlatform]:
    folder = tmp_path_factory.mktemp("platform")
    own = ROOT / "tests/live/own"
    for name in ("probes.py", *(path.name for path in own.glob("*.yaml"))):
        (folder / name).write_text((own / name).read_text())
    port = free_port()
    itself = f"http://127.0.0.1:{port}/v1"
    extra = {
        "ray": {
            "dashboard_port": 0,
            "num_gpus": 4,
            "num_cpus": 4,
            "resources": {"lab": 2, "accelerator_type:L4": 1},
        },
        "models": {
            "slow": SLOW,
            "rolled": ROLLED,
            "kept": {**ROLLED, "cache": {"exact": True, "shared": True}},
            "scaling": SCALING,
            "on-gpus": ON_GPUS,
            "child": _own_server(folder),
            **_elsewhere(itself),
        },
        "agents": {
            "talker": {"use": "probes:talker", "model": "slow"},
            "writer-of-notes": {"use": "probes:noter"},
            "greeter": {"use": "probes:greeter"},
            "stranded": {"use": "probes:talker", "model": "nowhere", "options": {"model_attempts": 1}},
            "helped": {"use": "probes:talker", "model": "absent", "options": {"model_attempts": 1}},
            "finder": {"use": "agents.research:Researcher", "strategy": "agent", "model": "smollm2"},
            "placed": {"use": "probes:placed", "size": 2, "resources": {"lab": 1}, "num_cpus": 0.05},
        },
        "tools": {"note": "probes:note"},
        "graphs": {path.stem: path.name for path in own.glob("*.yaml")},
    }
    made = make_platform(folder, extra, port)
    bring_up(made)
    try:
        yield made
    finally:
        stop(made.home)


@pytest.fixture
def client(platform: LivePlatform) -> Iterator[Client]:
    with platform.client() as made:
        yield made
