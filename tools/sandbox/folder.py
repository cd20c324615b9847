"""The folder of one run: made fresh, filled with the inputs, searched for results, and removed.

What the code left in it is hostile: links, devices, hard links, folders nested without end. Results are
opened relative to an open folder and never through a link, and copied, so that owner and mode are ours.
"""

import mimetypes
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from manta.errors import ToolError
from tools.sandbox.model import ProducedFile, SandboxLimits

_MAX_FILES = 100
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`work` is the code's current folder; `scratch` its home, for caches that are nobody's result."""

    root: Path
    work: Path
    scratch: Path
    inputs: frozenset[str]

    @classmethod
    def create(cls, uid: int | None, inputs: Mapping[str, Path]) -> "RunFolder":
        """Raises ToolError(code='bad_input') for a name that is not a plain file name."""
        for name in inputs:
            if not name or name in (".", "..") or "/" in name or "\0" in name or len(name.encode()) > 200:
                raise ToolError(
                    f"{name!r} is no plain file name", fix="name inputs like 'data.csv'", code="bad_input"
                )
        root = Path(os.path.realpath(tempfile.mkdtemp(prefix="manta-run-")))
        folder = cls(root, root / "work", root / "scratch", frozenset(inputs))
        for path in (folder.work, folder.scratch):
            path.mkdir(mode=0o700)
            if uid is not None:
                os.chown(path, uid, uid)
        # Passable, not readable: the code's user must reach the folders below.
        root.chmod(0o711 if uid is not None else 0o700)
        return folder

    def fill(self, inputs: Mapping[str, Path]) -> None:
        for name, source in inputs.items():
            target = self.work / name
            try:
                shutil.copyfile(source, target)
            except OSError as error:
                reason = f"input {name!r} cannot be read: {error.strerror}"
                raise ToolError(reason, fix="pass the path of a readable file", code="bad_input") from error
            target.chmod(0o444)

    def collect(self, output_dir: Path, limits: SandboxLimits) -> tuple[ProducedFile, ...]:
        """Copy the new regular files out, at most 100 and within the limits."""
        left = limits.disk_mb << 20
        taken: list[ProducedFile] = []
        for name, descriptor in _regular_files(self.work):
            with os.fdopen(descriptor, "rb") as source:
                size = os.fstat(source.fileno()).st_size
                if name in self.inputs or size > min(left, limits.file_mb << 20) or len(taken) >= _MAX_FILES:
                    continue
                target = output_dir / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
            left -= size
            media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
            taken.append(ProducedFile(name, target, size, media_type))
        return tuple(taken)

    def remove(self) -> None:
        """Remove all, however deep: folders are first lifted to the top, so no path grows and nothing recurses."""
        serial = 0
        waiting = [self.work, self.scratch]
        while waiting:
            folder = waiting.pop()
            os.chmod(folder, 0o700)
            for entry in list(os.scandir(folder)):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
                    serial += 1
                    lifted = self.root / f"lifted-{serial}"
                    os.rename(entry.path, lifted)
                    waiting.append(lifted)
                else:
                    os.unlink(entry.path)
            os.rmdir(folder)
        os.rmdir(self.root)


def _regular_files(top: Path) -> Iterator[tuple[str, int]]:
    """(relative name, open descriptor) of regular files with one name; links of any kind are passed over."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    waiting: list[tuple[str, int, int]] = [("", os.open(top, flags | os.O_DIRECTORY), 0)]
    while waiting:
        prefix, folder, depth = waiting.pop()
        try:
            for name in sorted(os.listdir(folder)):
                info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode) and depth < _MAX_DEPTH and info.st_mode & stat.S_IRUSR:
                    below = os.open(name, flags | os.O_DIRECTORY, dir_fd=folder)
                    waiting.append((f"{prefix}{name}/", below, depth + 1))
                elif stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and info.st_mode & stat.S_IRUSR:
                    yield f"{prefix}{name}", os.open(name, flags, dir_fd=folder)
        finally:
            os.close(folder)
