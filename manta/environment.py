"""What the environment says beyond the settings, for parts that must not need the settings' libraries."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where this user keeps what can be made again: `$XDG_CACHE_HOME/manta`, or `~/.cache/manta`.

    Raises RuntimeError for a user without a home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manta"


def wanted_compiler() -> str:
    """`$CXX`: the C++ compiler that is to be used; empty leaves the choice."""
    return os.environ.get("CXX", "")
