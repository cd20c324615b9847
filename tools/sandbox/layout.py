"""Where the running interpreter lives, and which folders the code must be able to read to import from it."""

import os
import sys
import sysconfig
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_FACTS = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")


def readable() -> list[str]:
    """Standard library, site-packages, shared libraries and time zones.

    Programs are not among them, nor the system's fonts: matplotlib would read them all in each fresh folder.
    """
    paths = sysconfig.get_paths()
    python = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    libraries = [
        os.path.join(prefix, name) for prefix in (sys.base_prefix, sys.prefix) for name in ("lib", "lib64")
    ]
    wanted = [*python, *libraries, *_LIBRARIES, *_FACTS]
    # Both the name and what it stands for: rules and binds follow links, look-ups by name do not.
    every = [variant for path in wanted for variant in (path, os.path.realpath(path))]
    return [path for path in dict.fromkeys(every) if os.path.exists(path)]


def interpreter() -> str:
    """The virtual environment's own name for the interpreter: its site-packages hang on it."""
    return sys.executable


def start(parent_of_inside: str, outcome: int) -> list[str]:
    """Command line of the supervisor; its package is found below `parent_of_inside`."""
    program = (
        "import sys; folder = sys.argv[1]; sys.path.insert(0, folder); "
        "from inside.supervisor import main; sys.path.remove(folder); main(int(sys.argv[2]))"
    )
    return [interpreter(), "-I", "-B", "-X", "utf8", "-c", program, parent_of_inside, str(outcome)]
