"""The sandbox's values: what a run may use, and what came of it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one run may use, its child processes included.

    wall_s, cpu_s: seconds; cpu_s is summed over the tree.
    memory_mb: address space of each process, and resident memory of all together.
    file_mb: one file; all files together may hold four times as much.
    processes: processes and threads.
    output_kb: standard output and standard error together.
    """

    wall_s: float = 30
    cpu_s: int = 20
    memory_mb: int = 1024
    file_mb: int = 64
    processes: int = 32
    open_files: int = 128
    output_kb: int = 256

    @property
    def disk_mb(self) -> int:
        return 4 * self.file_mb


@dataclass(frozen=True, slots=True)
class ProducedFile:
    """A file the code made. `name` is relative to the work folder, `path` where it lies on the host now."""

    name: str
    path: Path
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What came of a run.

    ok: the code ended by itself with exit code 0.
    exit_code: negative for a signal; None when a limit ended the run.
    limit: 'wall', 'cpu', 'memory', 'output', 'processes', 'file' (one file), 'disk' (all files), or None.
    seconds: from start to the end of the last process.
    """

    ok: bool
    exit_code: int | None
    stdout: str
    stderr: str
    limit: str | None
    files: tuple[ProducedFile, ...]
    seconds: float
    backend: str


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """Whether a backend works on this machine; if not, why, and what would change that."""

    name: str
    works: bool
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """The backends in order of preference."""

    backends: tuple[BackendStatus, ...]

    @property
    def best(self) -> str | None:
        return next((backend.name for backend in self.backends if backend.works), None)
