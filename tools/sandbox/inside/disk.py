"""How much the run's folders hold, by a walk that gives up early."""

import os
from collections.abc import Iterable

MAX_ENTRIES = 4000
MAX_DEPTH = 32


def over(folders: Iterable[str], max_bytes: int) -> bool:
    """True when the folders hold too much, or cannot be measured (unreadable, too deep): that counts as too much."""
    total = entries = 0
    waiting = [(folder, 0) for folder in folders]
    while waiting:
        folder, depth = waiting.pop()
        if depth > MAX_DEPTH:
            return True
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    entries += 1
                    total += _size(entry)
                    if entries > MAX_ENTRIES or total > max_bytes:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
        except FileNotFoundError:
            continue
        except OSError:
            return True
    return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0
