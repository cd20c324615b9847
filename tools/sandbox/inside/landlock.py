"""Landlock by raw system calls: which folders this process may read, which it may write, and nothing else."""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from . import kernel

MINIMUM_ABI = 3
"""Linux 6.2. Before it truncate() is not governed, and code could empty any file of the same user."""
SCOPES_ABI = 6
"""Linux 6.12. From here on signals and abstract sockets cannot leave the sandbox."""

_READ_FILE, _READ_DIR, _WRITE_FILE, _TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REGULAR = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_MAKE_FIFO, _MAKE_SYMLINK, _REFER = 1 << 10, 1 << 12, 1 << 13
_READ = _READ_FILE | _READ_DIR
_WRITE = (
    _READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE
    | _MAKE_DIR | _MAKE_REGULAR | _MAKE_FIFO | _MAKE_SYMLINK | _REFER
)  # fmt: skip
_FILE_RIGHTS = _READ_FILE | _WRITE_FILE | _TRUNCATE
_ALL_FILE_SYSTEM = (1 << 15) - 1
_IOCTL_DEVICE = 1 << 15
_ALL_TCP = 0b11
_ALL_SCOPES = 0b11
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def abi() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    try:
        return kernel.syscall(kernel.LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except OSError:
        return 0


def ruleset(version: int, readable: Iterable[str], writable: Iterable[str]) -> int:
    """Open a ruleset; returns its descriptor. Paths that do not exist are left out."""
    handled = _ALL_FILE_SYSTEM | (_IOCTL_DEVICE if version >= 5 else 0)
    fields = [handled] + [_ALL_TCP] * (version >= 4) + [_ALL_SCOPES] * (version >= SCOPES_ABI)
    packed = struct.pack(f"={len(fields)}Q", *fields)
    descriptor = kernel.syscall(
        kernel.LANDLOCK_CREATE_RULESET, packed, ctypes.c_size_t(len(packed)), ctypes.c_uint(0)
    )
    for path in readable:
        _allow(descriptor, path, _READ)
    for path in writable:
        _allow(descriptor, path, _WRITE)
    for path in _DEVICES:
        _allow(descriptor, path, _READ_FILE | _WRITE_FILE)
    return descriptor


def _allow(descriptor: int, path: str, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, target)
        kernel.syscall(
            kernel.LANDLOCK_ADD_RULE, ctypes.c_int(descriptor), ctypes.c_int(1), rule, ctypes.c_uint(0)
        )
    finally:
        os.close(target)


def restrict(descriptor: int) -> None:
    """Apply the ruleset to this process for good; needs no_new_privs."""
    kernel.syscall(kernel.LANDLOCK_RESTRICT_SELF, ctypes.c_int(descriptor), ctypes.c_uint(0))
    os.close(descriptor)
