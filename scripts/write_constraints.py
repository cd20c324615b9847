"""Writes the versions installed in this environment to constraints.txt, without local build tags."""

import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "constraints.txt"
HEAD = """\
# The versions Manta is built and tested with; `make setup` installs with them. Made by `make constraints`.
# torch: pip finds a CPU or a CUDA build by the index it asks; see the README on how to choose.
"""


def main() -> None:
    command = [sys.executable, "-m", "pip", "list", "--format=freeze", "--exclude-editable"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    pins = [
        line.split("+")[0] for line in listed if not line.startswith(("pip==", "setuptools==", "wheel=="))
    ]
    FILE.write_text(HEAD + "\n".join(sorted(pins, key=str.lower)) + "\n")


if __name__ == "__main__":
    main()
