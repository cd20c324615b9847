"""The order that the host sends through the supervisor's standard input: a length, then JSON."""

import json
import os
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Spec:
    """One run. Paths are absolute and as seen inside.

    uid: whom to become, None to stay (the host is not root).
    own_namespaces: bubblewrap has put a PID namespace and private mounts around us.
    """

    code: str
    work: str
    scratch: str
    readable: list[str]
    uid: int | None
    own_namespaces: bool
    wall_s: float
    cpu_s: int
    memory_mb: int
    file_mb: int
    disk_mb: int
    processes: int
    open_files: int

    def frame(self) -> bytes:
        body = json.dumps(asdict(self)).encode()
        return len(body).to_bytes(8, "big") + body


def read_spec(descriptor: int) -> Spec | None:
    """Read one frame; None when the host went away before the end of it."""
    head = _exactly(descriptor, 8)
    body = _exactly(descriptor, int.from_bytes(head, "big")) if head else b""
    return Spec(**json.loads(body)) if body else None


def _exactly(descriptor: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
