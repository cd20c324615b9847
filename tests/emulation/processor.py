"""An emulated processor that works on this process's own memory, so that functions get the pointers they always get."""

import ctypes
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bochscpu
import bochscpu.cpu
import bochscpu.memory

GIB = 30
"""Bits of an address within a gibibyte, which is one entry of the page tables."""
GIBS = 1 << 40 - GIB
"""As much physical memory as the emulator has."""
USERS = 1 << 47
PRESENT, WRITABLE, LARGE = 1, 2, 0x80
STACK = 1 << 20
ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
# x87, SSE, AVX and the three states of AVX-512.
STATES = 0xE7
HALT = b"\xf4"


class Processor:
    """In 64-bit mode, in ring 0, without interrupts."""

    def __init__(self) -> None:
        self._kept: list[mmap.mmap] = []
        # The page tables lie in the first gibibyte of physical memory, which stands for no other.
        self._next_table = 1 << 12
        self._top, self._root = self._table()
        self._second: dict[int, mmap.mmap] = {}
        self._seen: dict[int, int] = {}
        self._stands_for: dict[int, int] = {}
        self._stack = self._address(self._room(STACK))
        end = self._room(mmap.PAGESIZE)
        end[: len(HALT)] = HALT
        self._end = self._address(end)
        self._session = bochscpu.Session()
        self._session.missing_page_handler = self._bring
        self._hooks = bochscpu.Hook()
        self._hooks.hlt = lambda session, cpu: session.stop()
        self._hooks.exception = self._fail
        self._failure = ""

    def call(self, function: int, *arguments: int) -> None:
        """Run the function at this address until it returns. Raises RuntimeError when the processor faults."""
        self._map_all()
        rest = arguments[len(ARGUMENTS) :]
        # A called function finds its return address there, and the further arguments behind it.
        frame = (self._stack + STACK - mmap.PAGESIZE) // 64 * 64 - 8
        words = struct.pack(f"<{1 + len(rest)}Q", self._end, *rest)
        ctypes.memmove(frame, words, len(words))
        state = self._state()
        state.rip, state.rsp = function, frame
        for register, value in zip(ARGUMENTS, arguments, strict=False):
            setattr(state, register, value)
        self._session.cpu.state = state
        self._failure = ""
        self._session.run([self._hooks])
        if self._failure:
            raise RuntimeError(self._failure)

    def _state(self) -> Any:
        state = bochscpu.State()
        bochscpu.cpu.set_long_mode(state)
        control = bochscpu.cpu.ControlRegister()
        control.PE = control.PG = control.NE = control.ET = control.MP = True
        extensions = bochscpu.cpu.ControlRegister()
        extensions.PAE = extensions.OSFXSR = extensions.OSXMMEXCPT = extensions.OSXSAVE = True
        features = bochscpu.cpu.FeatureRegister()
        features.LME = features.LMA = features.NXE = True
        state.cr0, state.cr4, state.efer = int(control), int(extensions), int(features)
        state.cr3, state.xcr0, state.rflags = self._root, STATES, 2
        state.mxcsr, state.mxcsr_mask = 0x1F80, 0xFFFF
        state.cs = _segment(1, code=True)
        state.ss = state.ds = state.es = state.fs = state.gs = _segment(2, code=False)
        return state

    def _map_all(self) -> None:
        """Every gibibyte in which this process has memory, under a number that the emulator has room for."""
        for line in Path("/proc/self/maps").read_text().splitlines():
            first, end = (int(address, 16) for address in line.split()[0].split("-"))
            if end <= USERS:
                for virtual in range(first >> GIB, (end - 1 >> GIB) + 1):
                    self._map(virtual)

    def _map(self, virtual: int) -> None:
        if virtual in self._seen:
            return
        physical = len(self._seen) + 1
        if physical >= GIBS:
            raise RuntimeError("this process uses more memory than the emulator can address")
        self._seen[virtual], self._stands_for[physical] = physical, virtual
        above, entry = divmod(virtual, 512)
        if above not in self._second:
            self._second[above], table = self._table()
            _write(self._top, above, table | PRESENT | WRITABLE)
        _write(self._second[above], entry, physical << GIB | PRESENT | WRITABLE | LARGE)

    def _bring(self, physical: int) -> None:
        page = physical // mmap.PAGESIZE * mmap.PAGESIZE
        within = page & (1 << GIB) - 1
        bochscpu.memory.page_insert(page, self._stands_for[page >> GIB] << GIB | within)

    def _table(self) -> tuple[mmap.mmap, int]:
        """A table of 512 entries, and its physical address."""
        table, physical = self._room(mmap.PAGESIZE), self._next_table
        self._next_table += mmap.PAGESIZE
        bochscpu.memory.page_insert(physical, self._address(table))
        return table, physical

    def _room(self, size: int) -> mmap.mmap:
        self._kept.append(mmap.mmap(-1, size))
        return self._kept[-1]

    @staticmethod
    def _address(room: mmap.mmap) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(room))

    def _fail(self, session: Any, cpu: int, vector: int, error: int) -> None:
        at, about = session.cpu.rip, session.cpu.cr2
        self._failure = f"exception {vector} ({error}) at {at:#x}, about {about:#x}"
        session.stop()


class EmulatedLibrary:
    """As a CDLL whose functions return nothing; `calls` counts."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._processor = Processor()
        self.calls = 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        function = ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value

        def call(*arguments: Any) -> None:
            self.calls += 1
            self._processor.call(function or 0, *map(_number, arguments))

        return call


def _number(argument: Any) -> int:
    """What a register gets for an argument of ctypes."""
    if hasattr(argument, "_obj"):
        # What `byref` gives.
        return ctypes.addressof(argument._obj)
    return int(argument.value or 0)


def _segment(number: int, *, code: bool) -> Any:
    flags = bochscpu.cpu.SegmentFlags()
    flags.A = flags.R = flags.S = flags.P = True
    flags.E = flags.L = code
    segment = bochscpu.Segment()
    segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, number << 3
    segment.attr, segment.present = int(flags), True
    return segment


def _write(table: mmap.mmap, entry: int, value: int) -> None:
    table[8 * entry : 8 * entry + 8] = struct.pack("<Q", value)
