"""For pytest: the engine gets kernels whose calls are emulated."""

import os
import sys
from pathlib import Path

import pytest
import torch

from serve_app.engine.native import build
from tests.emulation.processor import EmulatedLibrary

KERNELS = EmulatedLibrary(Path(os.environ["EMULATED_KERNELS"]))


def library() -> EmulatedLibrary:
    return KERNELS


# Tests ask for what the cache is around.
library.__wrapped__ = build.library.__wrapped__  # type: ignore[attr-defined]
build.library = library  # type: ignore[assignment]
torch.set_num_threads(1)
_status = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"{KERNELS.calls} calls were emulated")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    global _status
    _status = int(exitstatus) or int(not KERNELS.calls)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """The emulator's module does not survive the end of Python."""
    sys.stdout.flush()
    os._exit(_status)
