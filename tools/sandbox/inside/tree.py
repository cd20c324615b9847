"""The processes below this one: who they are, what they use, and their end."""

import os
import resource
import signal
import time
from dataclasses import dataclass

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """tasks: threads of all processes. memory: resident bytes; what forks share counts in each of them."""

    tasks: int
    memory: int
    cpu_s: float


def descendants() -> list[int]:
    """Children, their children, and so on. Orphans come to us, since we are their subreaper."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _children(pid: int) -> list[int]:
    try:
        found: list[int] = []
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
        return found
    except (FileNotFoundError, ProcessLookupError):
        # It ended meanwhile, or the kernel was built without this file.
        return [] if _kernel_lists_children() else _children_by_parent(pid)


def _kernel_lists_children() -> bool:
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _children_by_parent(pid: int) -> list[int]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [other for other in pids if (fields := _stat(other)) and int(fields[1]) == pid]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (so index 0 is field 3); empty when it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def usage() -> Usage:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    tasks, memory, cpu = 0, 0, ended.ru_utime + ended.ru_stime
    for pid in descendants():
        if fields := _stat(pid):
            tasks += int(fields[17])
            memory += int(fields[21]) * _PAGE
            cpu += sum(int(field) for field in fields[11:15]) / _TICK
    return Usage(tasks, memory, cpu)


def proportional_memory() -> int:
    """Bytes in use with shared pages divided among their users; dear to ask, so only when `usage` says a lot."""
    total = 0
    for pid in descendants():
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def reap() -> dict[int, int]:
    """Collect what has ended: pid -> exit code, negative for a signal."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def kill_all(patience_s: float = 10) -> dict[int, int]:
    """Kill until nobody is left, also those forked while we look."""
    ended: dict[int, int] = {}
    give_up = time.monotonic() + patience_s
    while (alive := descendants()) and time.monotonic() < give_up:
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        ended |= reap()
    return ended | reap()
