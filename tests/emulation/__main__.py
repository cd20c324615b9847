"""Run tests with emulated kernels: `python -m tests.emulation FOLDER [pytest's arguments]`, FOLDER having bochscpu."""

import os
import subprocess
import sys
from pathlib import Path

from serve_app.engine.native import build

HERE = Path(__file__).parent
TESTS = ("tests/engine/test_native.py",)
PROCESSOR = "icelake-client"
"""The least that has AVX-512 with VNNI."""


def compiled(folder: Path) -> tuple[Path, Path]:
    """What is loaded before the emulator, and the kernels."""
    # Not beside the module: Python would take a library there for a module of its name.
    built = folder / "built"
    built.mkdir(exist_ok=True)
    shim, kernels, objects = built / "shim.so", built / "kernels.so", built / "kernels.o"
    _run("gcc", "-O1", "-shared", "-fPIC", str(HERE / "shim.c"), "-o", str(shim), "-ldl")
    options = [f"-march={PROCESSOR}" if each == "-march=native" else each for each in build._COMPILE]
    options[options.index("-fopenmp")] = "-fopenmp-simd"
    _run("g++", *options, "-c", str(build._SOURCE), "-o", str(objects))
    # All names are found when it is loaded, and first its own.
    linked = ("-shared", "-fPIC", "-Wl,-z,now", "-Wl,-Bsymbolic")
    _run("g++", *linked, str(objects), "-x", "c", str(HERE / "one_thread.c"), "-o", str(kernels))
    return shim, kernels


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]).resolve()
    shim, kernels = compiled(folder)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "EMULATOR": str(next((folder / "bochscpu").glob("_bochscpu*.so"))),
        "EMULATED_KERNELS": str(kernels),
        "PYTHONPATH": os.pathsep.join((str(folder), os.getcwd())),
        "OMP_NUM_THREADS": "1",
    }
    options = ["-p", "tests.emulation.plugin", "--timeout", "1800", *(arguments[1:] or TESTS)]
    return subprocess.run([sys.executable, "-m", "pytest", *options], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
