"""A seccomp filter put together by hand: a short BPF program, no libseccomp.

The library is not on every machine and its Python binding only wraps it, while the program needed here is
a list of comparisons. It refuses the network, other processes, the kernel's administration and every call
newer than the list in syscalls.py; the rest of Linux is left to Landlock, the namespaces and the limits.
"""

import ctypes
import errno
import struct

from . import kernel
from .syscalls import AUDIT_ARCH, FIRST_MODERN, MODERN_ALLOWED, number

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NR_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16
_X32_BIT = 0x40000000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_NEW_NAMESPACES = 0x7E020000
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF
_OWNER_COMMANDS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: another way to signal a stranger
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

NETWORK = ("socket", "connect", "bind", "listen", "accept", "accept4")
PROGRAMS = ("execve", "execveat")
OTHER_PROCESSES = (
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "setpriority", "ioprio_set", "migrate_pages",
    "sched_setscheduler", "sched_setparam", "sched_setattr", "move_pages", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
)  # fmt: skip
ADMINISTRATION = (
    "mount", "umount2", "pivot_root", "chroot", "swapon", "swapoff", "reboot", "sethostname", "setdomainname",
    "init_module", "finit_module", "delete_module", "create_module", "kexec_load", "kexec_file_load", "bpf",
    "perf_event_open", "userfaultfd", "unshare", "setns", "add_key", "request_key", "keyctl", "acct", "quotactl",
    "open_by_handle_at", "name_to_handle_at", "syslog", "vhangup", "settimeofday", "clock_settime", "adjtimex",
    "clock_adjtime", "personality", "fanotify_init", "fanotify_mark", "iopl", "ioperm", "modify_ldt", "uselib",
    "nfsservctl", "lookup_dcookie", "vmsplice", "capset", "setuid", "setgid", "setreuid", "setregid", "setresuid",
    "setresgid", "setgroups", "setfsuid", "setfsgid",
)  # fmt: skip
# Memory and queues that outlive the process or that RLIMIT_AS does not count.
SHARED_MEMORY = (
    "shmget", "shmat", "shmctl", "msgget", "msgsnd", "msgrcv", "msgctl", "semget", "semop", "semctl", "semtimedop",
    "mq_open", "mq_unlink", "mq_notify", "memfd_create", "io_setup", "io_submit",
)  # fmt: skip
OWNERSHIP = (
    "chown", "fchown", "lchown", "fchownat", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr",
    "fremovexattr",
)  # fmt: skip
# Landlock does not govern modes and times, so these would reach every file of the same user. They answer
# success and do nothing: shutil.copy and friends set a mode as a courtesy and would fail for no reason.
PRETENDED = ("chmod", "fchmod", "fchmodat", "utime", "utimes", "futimesat", "utimensat")
SIGNALS = ("kill", "tkill", "tgkill")

Instruction = tuple[int, int, int, int]


def _argument(index: int) -> Instruction:
    """Load the low half of argument `index`; the checked arguments are C ints. Both machines are little-endian."""
    return (_LOAD, 0, 0, _ARGS_OFFSET + 8 * index)


def _refuse(code: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)


class _Program:
    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.code: list[Instruction] = [
            (_LOAD, 0, 0, _ARCH_OFFSET),
            (_EQUAL, 1, 0, AUDIT_ARCH[machine]),
            (_RETURN, 0, 0, _KILL),
            (_LOAD, 0, 0, _NR_OFFSET),
        ]
        if machine == "x86_64":
            self.code += [(_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)]

    def refuse(self, names: tuple[str, ...], code: int) -> None:
        for name in names:
            nr = number(name, self.machine)
            if nr is not None:
                self.code += [(_EQUAL, 0, 1, nr), _refuse(code)]

    def check(self, name: str, block: list[Instruction]) -> None:
        """Run `block`, which ends in a return, when the call is `name`."""
        nr = number(name, self.machine)
        if nr is not None:
            self.code += [(_EQUAL, 0, len(block), nr), *block]

    def refuse_values(self, name: str, index: int, values: tuple[int, ...], code: int) -> None:
        block = [_argument(index)]
        for value in values:
            block += [(_EQUAL, 0, 1, value), _refuse(code)]
        self.check(name, [*block, (_RETURN, 0, 0, _ALLOW)])

    def only_value(self, name: str, index: int, value: int, code: int) -> None:
        self.check(name, [_argument(index), (_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW), _refuse(code)])

    def finish(self) -> list[Instruction]:
        self.code += [(_AT_LEAST, 1, 0, FIRST_MODERN), (_RETURN, 0, 0, _ALLOW)]
        for nr in MODERN_ALLOWED.values():
            self.code += [(_EQUAL, 0, 1, nr), (_RETURN, 0, 0, _ALLOW)]
        self.code.append(_refuse(errno.ENOSYS))
        return self.code


def assemble(machine: str, *, signals_are_scoped: bool) -> list[Instruction]:
    """The filter for 'x86_64' or 'aarch64'.

    signals_are_scoped: a PID namespace or Landlock (kernel 6.12) already keeps signals inside; otherwise
    sending any signal is refused, since the sandbox may share its user with the rest of the machine.
    """
    program = _Program(machine)
    program.refuse(NETWORK + PROGRAMS, errno.EACCES)
    program.refuse(OTHER_PROCESSES + ADMINISTRATION + SHARED_MEMORY + OWNERSHIP, errno.EPERM)
    program.refuse(PRETENDED, 0)
    if not signals_are_scoped:
        program.refuse(SIGNALS, errno.EPERM)
    # A datagram pair could be pointed at a stranger's socket afterwards; a connected stream cannot.
    program.check(
        "socketpair",
        [
            _argument(0), (_EQUAL, 1, 0, _AF_UNIX), _refuse(errno.EACCES),
            _argument(1), (_AND, 0, 0, _SOCK_TYPE_MASK), (_EQUAL, 1, 0, _SOCK_STREAM), _refuse(errno.EACCES),
            (_RETURN, 0, 0, _ALLOW),
        ],
    )  # fmt: skip
    clone = [_argument(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), _refuse(errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    program.check("clone", clone)
    program.only_value("prlimit64", 0, 0, errno.EPERM)
    program.only_value("sched_setaffinity", 0, 0, errno.EPERM)
    program.refuse_values("fcntl", 1, _OWNER_COMMANDS, errno.EPERM)
    program.refuse_values("ioctl", 1, (_TIOCSTI, _TIOCLINUX), errno.EPERM)
    return program.finish()


def install(program: list[Instruction]) -> None:
    """Put the filter on this process and all it will ever fork; needs no_new_privs."""
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    code = ctypes.create_string_buffer(packed, len(packed))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    kernel.prctl_pointer(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.cast(header, ctypes.c_void_p))
