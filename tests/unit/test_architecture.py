"""Rules of the house that no linter knows."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("manta", "tools", "agents", "coordinator", "serve_app")
RAY_ROOMS = {
    "agents/actor.py",
    "coordinator/actor.py",
    "coordinator/ray_runtime.py",
    "tools/ray_calls.py",
    "manta/jobs.py",
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_load_from_this_repository(package: str):
    # openai-agents also installs a package named `agents`.
    module = importlib.import_module(package)
    assert Path(module.__file__ or "").is_relative_to(ROOT)


def test_ray_appears_only_where_it_may():
    users = {str(p.relative_to(ROOT)) for p in sources() if "ray" in imported(p)}
    assert {user for user in users if not user.startswith("serve_app/")} <= RAY_ROOMS
    assert not {user for user in users if user.startswith("serve_app/engine/")}


def test_only_config_reads_the_environment():
    readers = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            if named and isinstance(node.value, ast.Name) and node.value.id == "os":
                readers.add(str(path.relative_to(ROOT)))
    # A process that is about to confine itself must clear its own environment.
    allowed = {"manta/config.py", "manta/environment.py"}
    assert {r for r in readers if not r.startswith("tools/sandbox/inside/")} <= allowed


def test_importing_everything_below_the_server_is_quiet_and_light():
    code = """
import sys, threading
for name in ("manta", "manta.cli.main", "coordinator.service", "agents.host", "tools.toolbox"):
    __import__(name)
heavy = {"ray", "torch", "transformers", "langchain", "langchain_core", "lancedb"} & set(sys.modules)
assert not heavy, heavy
assert threading.active_count() == 1
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not done.stdout


def test_no_file_is_two_rooms_in_one():
    long = {str(p.relative_to(ROOT)): n for p in sources() if (n := len(p.read_text().splitlines())) > 400}
    assert not long
