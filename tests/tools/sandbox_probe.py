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


def members(since: float) -> list[psutil.Process]:
    """Processes of runs that began after `since`, by the supervisor's command line, which forks keep."""
    found = []
    for process in psutil.process_iter():
        try:
            # The kernel's start times are whole clock ticks.
            if process.create_time() >= since - 0.02 and "inside.supervisor" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_nobody_left(since: float) -> None:
    _, alive = psutil.wait_procs(members(since), timeout=10)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
