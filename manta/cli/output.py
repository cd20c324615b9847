"""What a finished run leaves on disk: report.md, report.json and its charts, or output.json.

Everything is fetched and written beside its place first and moved in at the end, so that a failure leaves
nothing half-written.
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from manta.errors import InvalidInput
from manta.messages import ArtifactRef, from_json


@dataclass(frozen=True, slots=True)
class Written:
    """The files in place, and of a report the numbers worth saying."""

    files: tuple[Path, ...]
    citations: int | None = None
    dropped: int | None = None


def check_folder(folder: Path) -> None:
    """Raises InvalidInput when output could not be written there; checked before a run is started."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise InvalidInput(
            f"{existing} is a file, not a folder", fix="choose another: --out DIR", code="bad_out_folder"
        )
    if not os.access(existing, os.W_OK):
        raise InvalidInput(
            f"{existing} is not writable", fix="choose another: --out DIR", code="bad_out_folder"
        )


def write_output(output: dict[str, Any], folder: Path, fetch: Callable[[ArtifactRef], bytes]) -> Written:
    """Write a run's output to a folder.

    Args:
        fetch: gets an artifact's content.
    """
    report = output.get("report")
    if not isinstance(report, dict) or not isinstance(output.get("markdown"), str):
        return Written(_put(folder, {"output.json": _json(output)}))
    artifacts = [from_json(ArtifactRef, a) for a in output.get("artifacts") or []]
    # report.json goes last: where it is, the rest is too.
    content = {_file_name(a): fetch(a) for a in artifacts}
    content |= {"report.md": output["markdown"].encode(), "report.json": _json(report)}
    return Written(
        _put(folder, content), len(report.get("citations") or []), len(report.get("dropped") or [])
    )


def _put(folder: Path, content: dict[str, bytes]) -> tuple[Path, ...]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In the folder itself: a rename is atomic only within one file system.
        with tempfile.TemporaryDirectory(prefix=".manta-", dir=folder) as staging:
            for name, data in content.items():
                with (Path(staging) / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            for name in content:
                (Path(staging) / name).replace(folder / name)
    except OSError as error:
        raise InvalidInput(
            f"cannot write to {folder}: {error.strerror}",
            fix="choose another: --out DIR",
            code="bad_out_folder",
        ) from None
    return tuple(folder / name for name in content)


def _file_name(ref: ArtifactRef) -> str:
    # Names come from code a model wrote: only the last part, never a path.
    name = PurePosixPath(ref.name.replace("\\", "/")).name
    if name in ("", ".", "..", "report.md", "report.json"):
        return f"{ref.sha256[:12]}{PurePosixPath(ref.name).suffix}"
    return name


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
