"""Watches one run from just outside its fence, and leaves nothing of it behind.

It reads the order, forks the process that confines itself and runs the code, counts what the whole tree uses,
and ends the tree when the code is done, a limit is reached, or the host closes our standard input; which
also happens when the host dies. The last thing it writes, to its own pipe, is the outcome as JSON.
"""

import json
import os
import select
import sys
import time

from . import disk, kernel, runner, tree
from .confine import confine
from .spec import Spec, read_spec

_LOOK_EVERY_MS = 25
_DISK_EVERY = 4
_MEGABYTE = 1 << 20
_FENCE_FAILED = "fence: "


def main(outcome: int) -> None:
    """`outcome`: descriptor of the pipe to the host."""
    spec = read_spec(0)
    if spec is None:
        return
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.closerange(outcome, outcome + 1)
        os.close(reader)
        _inside(spec, writer)
    # Code of the same user must not look into us by way of /proc.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    os.close(writer)
    limit, exit_code = _watch(spec, pid)
    tree.kill_all()
    os.set_blocking(reader, False)
    note = _note(reader)
    fence = note.removeprefix(_FENCE_FAILED) if note.startswith(_FENCE_FAILED) else None
    named = note if note in ("memory", "processes") else None
    os.write(outcome, json.dumps({"limit": limit or named, "exit_code": exit_code, "fence": fence}).encode())


def _note(reader: int) -> str:
    try:
        return os.read(reader, 1000).decode(errors="replace")
    except BlockingIOError:
        return ""


def _inside(spec: Spec, note: int) -> None:
    status = 125
    try:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        try:
            confine(spec)
            runner.prepare(spec.work, spec.scratch, spec.readable)
        except Exception as error:
            # Whatever it was: without a whole fence the code must not run.
            os.write(note, f"{_FENCE_FAILED}{error}".encode()[:900])
        else:
            status = runner.run(spec.code, note)
    finally:
        os._exit(status)


def _watch(spec: Spec, pid: int) -> tuple[str | None, int | None]:
    """Until the end: (the limit that was reached, the exit code when the code ended by itself)."""
    poll = select.poll()
    poll.register(os.pidfd_open(pid), select.POLLIN)
    poll.register(0, select.POLLIN | select.POLLHUP)
    deadline = time.monotonic() + spec.wall_s
    looks = 0
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(_LOOK_EVERY_MS)]
        exit_code = tree.reap().get(pid)
        if exit_code is not None:
            return _limit_of_signal(exit_code), exit_code
        if 0 in ready:
            return "host", None
        limit = "wall" if time.monotonic() > deadline else _over(spec, looks % _DISK_EVERY == 0)
        if limit:
            return limit, None
        looks += 1


def _limit_of_signal(exit_code: int) -> str | None:
    return {-24: "cpu", -25: "file"}.get(exit_code)  # SIGXCPU, SIGXFSZ


def _over(spec: Spec, look_at_disk: bool) -> str | None:
    used = tree.usage()
    if used.tasks >= spec.processes:
        return "processes"
    allowed = spec.memory_mb * _MEGABYTE
    if used.memory > allowed and tree.proportional_memory() > allowed:
        return "memory"
    if used.cpu_s > spec.cpu_s + 1:
        return "cpu"
    if look_at_disk and disk.over((spec.work, spec.scratch), spec.disk_mb * _MEGABYTE):
        return "disk"
    return None


if __name__ == "__main__":
    main(int(sys.argv[1]))
