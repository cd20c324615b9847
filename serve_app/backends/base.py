"""What a replica asks of a backend beyond answering: to start, to stop, and to say whether it is well."""

from typing import Any, Protocol

from manta.protocols import ChatModel


class Backend(ChatModel, Protocol):
    def start(self) -> None:
        """Load what is needed. Blocking; may take seconds. Raises ModelLoadError."""
        ...

    def stop(self) -> None: ...

    @property
    def healthy(self) -> bool:
        """False when only a new process can help."""
        ...

    def stats(self) -> dict[str, Any]:
        """Counters for metrics and tests, plain JSON."""
        ...
