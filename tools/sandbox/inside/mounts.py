"""Make the interpreter reachable for an unprivileged user although it lies below a private folder.

Root's Python often lives in /root/..., which is closed (mode 0700) to the user the code runs as. Keeping
CAP_DAC_READ_SEARCH would open it, and with it every other file of the machine to anything Landlock does not
govern. Instead the closed folder is covered by an empty one, in a mount namespace of this process alone, and
only the needed folders are bound back below it: less is visible than before, not more.
"""

import os
import stat
from collections.abc import Iterable

from . import kernel


def closed_ancestor(path: str, uid: int) -> str | None:
    """The topmost folder on the way to `path` that user `uid` may not pass, None when the way is open."""
    parts = [part for part in os.path.dirname(path).split("/") if part]
    for count in range(1, len(parts) + 1):
        folder = "/" + "/".join(parts[:count])
        info = os.stat(folder)
        passable = info.st_mode & (stat.S_IXUSR if info.st_uid == uid else stat.S_IXOTH)
        if not passable:
            return folder
    return None


def uncover(paths: Iterable[str], uid: int) -> None:
    """Bind those of `paths` that lie below a closed folder back over it; needs CAP_SYS_ADMIN, else OSError."""
    below: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        folder = closed_ancestor(path, uid) if os.path.exists(path) else None
        if folder is not None:
            below.setdefault(folder, []).append(path)
    if not below:
        return
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    for folder, targets in below.items():
        # Held open, since the cover hides them; and only now, as mounts of another namespace cannot be bound.
        held = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in targets]
        kernel.mount("none", folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755,size=1m")
        for path, descriptor in held:
            _bind(descriptor, path)


def _bind(descriptor: int, path: str) -> None:
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        kernel.mount(f"/proc/self/fd/{descriptor}", path, "", kernel.MS_BIND)
    finally:
        os.close(descriptor)
