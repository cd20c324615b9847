"""bubblewrap: own process, network and mount namespaces, in which only the interpreter and the run's folders exist.

As root bwrap makes the mounts before anyone's rights are given up, so an interpreter below a private folder
is reachable by name for the user that the code then becomes; only the rights for that step are kept until
then. As an ordinary user the namespaces come with a user namespace.
"""

import os
import shutil
import sys
from pathlib import Path

from tools.sandbox import layout
from tools.sandbox.inside.spec import Spec
from tools.sandbox.model import BackendStatus

_HOME_OF_SUPERVISOR = "/manta"
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/libx32", "/bin")
# To become another user, to end its processes, and to measure its folders and memory.
_KEPT_AS_ROOT = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE")


class Bubblewrap:
    name = "bubblewrap"
    own_namespaces = True

    def missing(self) -> BackendStatus | None:
        if shutil.which("bwrap"):
            return None
        fix = "install it with the system's package manager, e.g. apt-get install bubblewrap"
        return BackendStatus(self.name, False, "the program bwrap is not on the PATH", fix)

    def command(self, spec: Spec, outcome: int) -> list[str]:
        program = shutil.which("bwrap") or "bwrap"
        separate = [
            "--unshare-ipc",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ]
        if spec.uid is None:
            rights = ["--unshare-user", "--cap-drop", "ALL"]
        else:
            rights = ["--cap-drop", "ALL"] + [word for name in _KEPT_AS_ROOT for word in ("--cap-add", name)]
        # The environment is not cleared here: the host starts us with one of its own making.
        fence = [program, *separate, *rights, "--die-with-parent", "--proc", "/proc", "--dev", "/dev"]
        places = [*_python(), spec.work, spec.scratch]
        folders = ["--bind", spec.work, spec.work, "--bind", spec.scratch, spec.scratch, "--chdir", "/"]
        python = [word for path in _python() for word in ("--ro-bind", path, path)]
        supervisor = ["--ro-bind", str(layout.INSIDE), f"{_HOME_OF_SUPERVISOR}/inside"]
        inside = [*_system(), *_passable(places), *python, *supervisor, *folders]
        return [*fence, *inside, "--", *layout.start(_HOME_OF_SUPERVISOR, outcome)]


def _system() -> list[str]:
    words: list[str] = []
    for path in _SYSTEM:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    return words


def _python() -> list[str]:
    wanted = [sys.base_prefix, sys.prefix, os.path.realpath(sys.base_prefix), *layout.readable()]
    within = tuple(f"{folder}/" for folder in _SYSTEM)
    return [path for path in dict.fromkeys(wanted) if path not in _SYSTEM and not path.startswith(within)]


def _passable(places: list[str]) -> list[str]:
    """Make the folders above `places`: bwrap would close them (0700) above a private one."""
    above = {str(parent) for place in places for parent in Path(place).parents if parent != Path("/")}
    return [word for folder in sorted(above) for word in ("--perms", "0755", "--dir", folder)]
