"""Which backends this machine has, asked once per test session, and who is left of a run."""

import functools

import psutil
import pytest

from tools.python_sandbox import SandboxReport, probe

NAMES = ("bubblewrap", "landlock")


@functools.cache
def report() -> SandboxReport:
    return probe()


def need(name: str) -> None:
    status = next(status for status in report().backends if status.name == name)
    if not status.works:
        pytest.skip(f"{name}: {status.reason}")


def members() -> set[psutil.Process]:
    """Processes of runs, by the supervisor's command line, which forks keep."""
    found = set()
    for process in psutil.process_iter():
        try:
            if "inside.supervisor" in " ".join(process.cmdline()):
                found.add(process)
        except psutil.Error:
            continue
    return found


def assert_nobody_left(before: set[psutil.Process]) -> None:
    """Nobody who was not there `before`; waits, as other test processes may have runs of their own."""
    _, alive = psutil.wait_procs(members() - before, timeout=20)
    assert alive == []
