"""Run Python that a model wrote, without trusting it: no network, no files but its own, bounded in every way.

Two backends keep the code in: bubblewrap (with seccomp and limits, and Landlock where the kernel has it), and
Landlock (with seccomp and limits) where bubblewrap cannot work. Where neither works the code is not run.
"""

import asyncio
import importlib.util
import os
import platform
import secrets
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from manta.errors import SandboxUnavailable
from tools.sandbox import layout
from tools.sandbox.backends import Backend, Landlock
from tools.sandbox.bubblewrap import Bubblewrap
from tools.sandbox.drive import drive
from tools.sandbox.folder import RunFolder
from tools.sandbox.inside.spec import Spec
from tools.sandbox.inside.syscalls import AUDIT_ARCH
from tools.sandbox.model import BackendStatus, ProducedFile, SandboxLimits, SandboxReport, SandboxResult
from tools.sandbox.patience import to_the_end

__all__ = [
    "BackendStatus",
    "ProducedFile",
    "PythonSandbox",
    "SandboxLimits",
    "SandboxReport",
    "SandboxResult",
    "probe",
]

_BACKENDS: dict[str, Backend] = {"bubblewrap": Bubblewrap(), "landlock": Landlock()}
_FIRST_UID, _UIDS = 61_184, 4_000


class PythonSandbox:
    """Runs code, one fresh folder and process tree per call; calls may overlap.

    backend: 'bubblewrap', 'landlock', or None for the first of the two that works on this machine.
    """

    def __init__(self, backend: str | None = None, limits: SandboxLimits = SandboxLimits()) -> None:
        if backend is not None and backend not in _BACKENDS:
            known = " or ".join(_BACKENDS)
            raise SandboxUnavailable(f"there is no sandbox backend {backend!r}", fix=f"use {known}")
        self._name = backend
        self._limits = limits

    async def run(
        self, code: str, *, inputs: Mapping[str, Path] | None = None, output_dir: Path
    ) -> SandboxResult:
        """Run `code` as a script whose current folder holds copies of `inputs` (file name -> host file).

        New regular files of that folder are moved to `output_dir` under their relative names. A failing or
        limited run is a result, not an error. Cancelling the call kills the run and leaves nothing behind.

        Raises: SandboxUnavailable when no backend works, ToolError(code='bad_input') for an unusable input.
        """
        if self._name is None:
            self._name = await asyncio.to_thread(_best_or_refuse)
        return await _run(_BACKENDS[self._name], self._limits, code, inputs or {}, output_dir)


def probe() -> SandboxReport:
    """Try each backend with a small program (about 0.3 s each); from async code call it in a thread."""
    return SandboxReport(tuple(_try(backend) for backend in _BACKENDS.values()))


def _best_or_refuse() -> str:
    report = probe()
    if report.best is None:
        reasons = "; ".join(f"{backend.name}: {backend.reason}" for backend in report.backends)
        fixes = ", or ".join(backend.fix for backend in report.backends if backend.fix)
        raise SandboxUnavailable(f"no sandbox works here, so no code is run: {reasons}", fix=fixes)
    return report.best


def _try(backend: Backend) -> BackendStatus:
    if platform.system() != "Linux" or platform.machine() not in AUDIT_ARCH:
        here = f"this is {platform.system()} on {platform.machine()}"
        return BackendStatus(backend.name, False, here, "run the tool on Linux, on x86-64 or 64-bit ARM")
    missing = backend.missing()
    if missing is not None:
        return missing
    numpy = importlib.util.find_spec("numpy") is not None
    code = "import json, socket\n" + ("import numpy\n" if numpy else "") + "print('ready')"
    found: list[BackendStatus] = []
    # In a thread of its own, because the caller's may already run an event loop.
    thread = threading.Thread(target=lambda: found.append(asyncio.run(_attempt(backend, code))), daemon=True)
    thread.start()
    thread.join()
    return found[0] if found else BackendStatus(backend.name, False, "the trial run broke off", "see the log")


async def _attempt(backend: Backend, code: str) -> BackendStatus:
    with tempfile.TemporaryDirectory(prefix="manta-probe-") as folder:
        try:
            result = await _run(backend, SandboxLimits(), code, {}, Path(folder))
        except SandboxUnavailable as error:
            return BackendStatus(backend.name, False, error.message, error.fix)
    if result.ok and result.stdout == "ready\n":
        return BackendStatus(backend.name, True)
    last = (result.stderr.strip().splitlines() or [f"limit {result.limit}, exit code {result.exit_code}"])[-1]
    fix = "make the Python installation readable for other users"
    return BackendStatus(backend.name, False, f"a trial run failed: {last}", fix)


async def _run(
    backend: Backend, limits: SandboxLimits, code: str, inputs: Mapping[str, Path], output_dir: Path
) -> SandboxResult:
    # Another user for each run, as runs of one user could see and count each other's processes.
    uid = _FIRST_UID + secrets.randbelow(_UIDS) if os.geteuid() == 0 else None
    started = time.monotonic()
    folder = RunFolder.create(uid, inputs)
    try:
        await to_the_end(asyncio.to_thread(folder.fill, inputs))
        spec = _spec(backend, limits, code, folder, uid)
        outcome = await drive(backend, spec, limits.output_kb << 10)
        seconds = time.monotonic() - started
        files = await to_the_end(asyncio.to_thread(folder.collect, output_dir, limits))
    finally:
        folder.remove()
    return SandboxResult(
        ok=outcome.exit_code == 0 and outcome.limit is None,
        exit_code=outcome.exit_code,
        stdout=outcome.stdout.decode(errors="replace"),
        stderr=outcome.stderr.decode(errors="replace"),
        limit=outcome.limit,
        files=files,
        seconds=seconds,
        backend=backend.name,
    )


def _spec(backend: Backend, limits: SandboxLimits, code: str, folder: RunFolder, uid: int | None) -> Spec:
    return Spec(
        code=code,
        work=str(folder.work),
        scratch=str(folder.scratch),
        readable=layout.readable(),
        uid=uid,
        own_namespaces=backend.own_namespaces,
        wall_s=limits.wall_s,
        cpu_s=limits.cpu_s,
        memory_mb=limits.memory_mb,
        file_mb=limits.file_mb,
        disk_mb=limits.disk_mb,
        processes=limits.processes,
        open_files=limits.open_files,
    )
