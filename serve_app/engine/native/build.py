"""Compiles the kernels for this processor, once: a few seconds, kept under the user's cache folder."""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import CDLL
from functools import cache
from pathlib import Path

import torch

from manta.environment import cache_folder, wanted_compiler
from serve_app.engine.native.product import multiplies_rightly

_SOURCE = Path(__file__).with_name("kernels.cpp")
_SOURCES = (_SOURCE, _SOURCE.with_name("products.hpp"))
_COMPILERS = ("g++", "clang++", "c++")
_COMPILE = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
)
_LONGEST_S = 120

_log = logging.getLogger(__name__)


@cache
def library() -> CDLL | None:
    """The compiled kernels; None where they cannot be had, and the log says why.

    Who has no home folder and no XDG_CACHE_HOME has nowhere to keep them.
    """
    missing = _missing()
    if missing is None:
        try:
            kernels = CDLL(str(compiled(cache_folder() / "kernels")))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            missing = str(getattr(error, "stderr", None) or error).strip()
        else:
            if multiplies_rightly(kernels):
                return kernels
            missing = "they multiply wrongly on this processor"
    _log.info("the engine goes without compiled kernels, at a lower speed: %s", missing)
    return None


def compiled(folder: Path) -> Path:
    """The shared library in `folder`, compiled if this source was not yet for this processor.

    Raises OSError or SubprocessError.
    """
    compiler = _compiler()
    if compiler is None:
        raise FileNotFoundError("there is no C++ compiler")
    target = folder / f"kernels-{_fingerprint(compiler)}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made, linked = Path(scratch, "kernels.o"), Path(scratch, "kernels.so")
            _run(compiler, *_COMPILE, "-c", str(_SOURCE), "-o", str(made))
            # OpenMP is not linked: torch has loaded its own, and two of them would fight for the cores.
            _run(compiler, "-shared", str(made), "-o", str(linked))
            os.replace(linked, target)
    return target


def _missing() -> str | None:
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        return "they are for Linux on x86-64"
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return "the processor has no AVX2"
    return None if _compiler() else "there is no C++ compiler"


def _compiler() -> str | None:
    return next(
        (found for name in (wanted_compiler(), *_COMPILERS) if name and (found := shutil.which(name))), None
    )


def _fingerprint(compiler: str) -> str:
    version = _run(compiler, "--version")
    sources = (path.read_bytes() for path in _SOURCES)
    parts = (*sources, *(text.encode() for text in (version, _processor(), " ".join(_COMPILE))))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What `-march=native` looks at; a cache folder may be shared between machines."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name"))}))


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, check=True, timeout=_LONGEST_S, text=True).stdout
