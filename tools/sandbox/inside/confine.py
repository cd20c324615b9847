"""Shut this process in: limits, another user, no new privileges, Landlock, seccomp; in that order.

Each step needs rights that the next takes away. What stays visible is what was opened by rule.
"""

import os
import platform
import resource
import signal

from . import kernel, landlock, mounts, seccomp
from .spec import Spec

_MEGABYTE = 1 << 20


def confine(spec: Spec) -> None:
    """Raises OSError when any part cannot be put in place; the caller must then not run the code."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    visible = [*spec.readable, spec.work, spec.scratch]
    if spec.uid is not None and not spec.own_namespaces:
        mounts.uncover(visible, spec.uid)
    version = landlock.abi()
    if version < landlock.MINIMUM_ABI and not spec.own_namespaces:
        raise OSError(f"the kernel's Landlock version is {version}, {landlock.MINIMUM_ABI} is needed")
    usable = version >= landlock.MINIMUM_ABI
    rules = landlock.ruleset(version, spec.readable, [spec.work, spec.scratch]) if usable else None
    _limit(spec)
    if spec.uid is not None:
        _become(spec.uid)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if rules is not None:
        landlock.restrict(rules)
    scoped = spec.own_namespaces or version >= landlock.SCOPES_ABI
    seccomp.install(seccomp.assemble(platform.machine(), signals_are_scoped=scoped))


def _limit(spec: Spec) -> None:
    def both(which: int, value: int) -> None:
        _, hard = resource.getrlimit(which)
        top = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (top, top))

    both(resource.RLIMIT_AS, spec.memory_mb * _MEGABYTE)
    both(resource.RLIMIT_FSIZE, spec.file_mb * _MEGABYTE)
    both(resource.RLIMIT_NOFILE, spec.open_files)
    both(resource.RLIMIT_CORE, 0)
    both(resource.RLIMIT_MSGQUEUE, 0)
    # The soft limit's signal names the cause; the hard one is for code that ignores it.
    resource.setrlimit(resource.RLIMIT_CPU, (spec.cpu_s, spec.cpu_s + 3))
    # The kernel counts all tasks of the user. A user of our own has none; otherwise ours come on top of those
    # already there, and the supervisor, which counts the tree itself, is the exact limit.
    others = 0 if spec.uid is not None else _tasks_of(os.getuid()) + spec.processes
    both(resource.RLIMIT_NPROC, others + spec.processes)


def _tasks_of(uid: int) -> int:
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    total += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue  # It ended, or is hidden from us and then not ours.
    return total


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise OSError("still root after giving root up")
