"""Writes the versions installed in this environment to constraints.txt, without local build tags.

A line with a marker holds for other Pythons too. It is kept: with the installed version where its package is
installed here, as it stands where it is not.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "constraints.txt"
HEAD = """\
# The versions Manta is built and tested with; `make setup` installs with them. Made by `make constraints`.
# torch: pip finds a CPU or a CUDA build by the index it asks; see the README on how to choose.
# A line with a marker is for the Pythons it names.
"""


def main() -> None:
    # pip leaves itself, setuptools and wheel out of `freeze`, but not out of `list`.
    command = [sys.executable, "-m", "pip", "list", "--format=freeze", "--exclude-editable"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    FILE.write_text(constraints(listed, FILE.read_text().splitlines()))


def constraints(installed: Iterable[str], before: Iterable[str]) -> str:
    """The file's new text from pip's `name==version` lines and the lines it had."""
    pins = {_name(line): line.split("+")[0] for line in installed}
    for line in before:
        pin, semicolon, marker = line.partition(";")
        if semicolon and not line.startswith("#"):
            pins[_name(line)] = f"{pins.get(_name(line), pin.strip())}; {marker.strip()}"
    return HEAD + "\n".join(sorted(pins.values(), key=str.lower)) + "\n"


def _name(line: str) -> str:
    return re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()


if __name__ == "__main__":
    main()
