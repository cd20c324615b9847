"""What a backend is: a way to start the supervisor behind a fence."""

from typing import Protocol

from tools.sandbox import layout
from tools.sandbox.inside import landlock as rules
from tools.sandbox.inside.spec import Spec
from tools.sandbox.model import BackendStatus


class Backend(Protocol):
    """Stateless; `name` is what results and reports say."""

    name: str
    own_namespaces: bool

    def missing(self) -> BackendStatus | None:
        """Why this backend cannot work here, None when nothing speaks against a try."""
        ...

    def command(self, spec: Spec, outcome: int) -> list[str]:
        """Command line that starts the supervisor for this run."""
        ...


class Landlock:
    """No container: the process shuts itself in with Landlock, seccomp and limits. Needs no privileges."""

    name = "landlock"
    own_namespaces = False

    def missing(self) -> BackendStatus | None:
        version = rules.abi()
        if version >= rules.MINIMUM_ABI:
            return None
        found = f"version {version}" if version else "none"
        reason = f"the kernel offers Landlock {found}, version {rules.MINIMUM_ABI} is needed"
        return BackendStatus(
            self.name,
            False,
            reason,
            "use Linux 6.2 or newer with landlock in the lsm= list, or install bubblewrap",
        )

    def command(self, spec: Spec, outcome: int) -> list[str]:
        return layout.start(str(layout.INSIDE.parent), outcome)
