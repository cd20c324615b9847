"""Where a benchmark keeps its databases, and the environment that Ray and the actors read when they begin."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import IN_MEMORY, file_system
from manta.config import Settings, child_environment
from serve_app.__main__ import ray_environment

FOLDER = Path("out/benchmarks")
_MADE = "MANTA_BENCHMARK_FOLDER"


@dataclass(frozen=True, slots=True)
class Workspace:
    folder: Path

    @property
    def home(self) -> Path:
        """The platform's."""
        return self.folder / "home"

    @property
    def ledger(self) -> Path:
        """Side effects of agents, one JSON object a line."""
        return self.folder / "ledger.jsonl"


@contextlib.contextmanager
def make(module: str, parent: Path) -> Iterator[Workspace]:
    """A new folder under `parent`, removed afterwards.

    The process starts itself again as `module`, as the environment has to be set before Ray is imported.
    """
    folder = os.environ.get(_MADE)
    if folder is None:
        _start_again(module, parent)
    space = Workspace(Path(str(folder)))
    try:
        yield space
    finally:
        shutil.rmtree(space.folder, ignore_errors=True)


def _start_again(module: str, parent: Path) -> None:
    parent.mkdir(parents=True, exist_ok=True)
    if file_system(parent) in IN_MEMORY:
        raise SystemExit(
            f"error: {parent} is in memory, where a flush costs nothing: choose another by --folder"
        )
    space = Workspace(Path(tempfile.mkdtemp(prefix="run-", dir=parent.resolve())))
    wanted = ray_environment(Settings(home=space.home))
    wanted |= {_MADE: str(space.folder), "MANTA_LEDGER": str(space.ledger)}
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], child_environment(**wanted))
