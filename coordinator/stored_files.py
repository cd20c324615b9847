"""Removes stored files that nothing names any more, beside a platform that stores and reads others."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

Named: TypeAlias = Callable[[Collection[str]], Awaitable[set[str]]]
"""Of files, by their SHA-256 in hex, those that something names."""

_SHA256 = re.compile("[0-9a-f]{64}")
_GOING = "going-"


async def sweep_files(folder: Path, named: Named, before: float, *, dry_run: bool = False) -> tuple[int, int]:
    """How many files went, and their bytes: those that were stored before a moment and that nothing names.

    A file is given its time anew when it is stored again.
    """
    old = await asyncio.to_thread(lambda: {path.name: path for path in _old_files(folder, before)})
    kept = await named(old.keys())
    doomed = [path for name, path in old.items() if name not in kept]
    return await asyncio.to_thread(_remove_all, doomed, before, dry_run)


def _old_files(folder: Path, before: float) -> Iterator[Path]:
    """Stored files, and copies that were never finished."""
    yield from (path for path in folder.glob("tmp*") if _is_old(path, before))
    for path in folder.glob("??/??/*"):
        if path.name.startswith(_GOING):
            # A sweep was cut off between two looks at it.
            path = _put_back(path)
        if _SHA256.fullmatch(path.name) and _is_old(path, before):
            yield path


def _is_old(path: Path, before: float) -> bool:
    with suppress(FileNotFoundError):
        return path.is_file() and path.stat().st_mtime < before
    return False


def _remove_all(paths: Collection[Path], before: float, dry_run: bool) -> tuple[int, int]:
    files = total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            if dry_run or _removed(path, before):
                files, total = files + 1, total + size
    return files, total


def _removed(path: Path, before: float) -> bool:
    """False when it was stored again since it was looked at. Raises FileNotFoundError when it has gone."""
    going = path.with_name(_GOING + path.name)
    # Out of the way first: a file that is stored now comes to lie beside it, and is not taken for it.
    path.rename(going)
    if going.stat().st_mtime >= before:
        _put_back(going)
        return False
    going.unlink()
    return True


def _put_back(going: Path) -> Path:
    path = going.with_name(going.name.removeprefix(_GOING))
    with suppress(FileNotFoundError):
        # One that was stored meanwhile has the same content.
        os.replace(going, path)
    return path
