"""The filter's decisions, for both architectures, by running its program in a small BPF machine."""

import errno

import pytest

from tools.sandbox.inside.seccomp import assemble
from tools.sandbox.inside.syscalls import AUDIT_ARCH, number

ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
MACHINES = ("x86_64", "aarch64")
JUMPS = {0x15: lambda a, k: a == k, 0x35: lambda a, k: a >= k, 0x45: lambda a, k: bool(a & k)}


def decide(machine: str, nr: int, *arguments: int, arch: int | None = None, scoped: bool = True) -> int:
    data = {0: nr, 4: AUDIT_ARCH[machine] if arch is None else arch}
    data |= {16 + 8 * index: value & 0xFFFFFFFF for index, value in enumerate(arguments)}
    program = assemble(machine, signals_are_scoped=scoped)
    at = accumulator = 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            accumulator = data.get(value, 0)
        elif code == 0x54:
            accumulator &= value
        else:
            at += yes if JUMPS[code](accumulator, value) else no


def call(machine: str, name: str, *arguments: int, scoped: bool = True) -> int:
    nr = number(name, machine)
    assert nr is not None
    return decide(machine, nr, *arguments, scoped=scoped)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("socket", (2, 1), REFUSE | errno.EACCES),
        ("execve", (), REFUSE | errno.EACCES),
        ("ptrace", (), REFUSE | errno.EPERM),
        ("fchmodat", (), REFUSE),
        ("clone", (0x01200011,), ALLOW),
        ("clone", (0x10000011,), REFUSE | errno.EPERM),
        ("clone", (0x40000011,), REFUSE | errno.EPERM),
        ("socketpair", (1, 0x80801), ALLOW),
        ("socketpair", (1, 2), REFUSE | errno.EACCES),
        ("socketpair", (2, 1), REFUSE | errno.EACCES),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), REFUSE | errno.EPERM),
        ("fcntl", (0, 8), REFUSE | errno.EPERM),
        ("fcntl", (0, 3), ALLOW),
        ("ioctl", (0, 0x5412), REFUSE | errno.EPERM),
        ("kill", (1, 9), ALLOW),
    ],
)
def test_named_calls(machine, name, arguments, expected):
    assert call(machine, name, *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["kill", "tkill", "tgkill"])
def test_signals_are_refused_where_nothing_else_holds_them(machine, name):
    assert call(machine, name, 1, 9, scoped=False) == REFUSE | errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_new_calls_are_unknown_and_reads_are_free(machine):
    for nr in (425, 426, 427, 434, 435, 438, 447, 600):
        assert decide(machine, nr) == REFUSE | errno.ENOSYS
    for nr in (436, 439, 449, 0 if machine == "x86_64" else 63):
        assert decide(machine, nr) == ALLOW


def test_other_ways_into_the_kernel_end_the_process():
    assert decide("x86_64", 41, arch=0x40000003) == KILL
    assert decide("x86_64", 0x40000000 + 41) == KILL
    assert decide("aarch64", 198, arch=0x40000028) == KILL
