"""Manta: multi-agent orchestration on Ray. The ground floor: the contract, the client and the command line."""

from typing import TYPE_CHECKING, Any

from manta.errors import MantaError

if TYPE_CHECKING:
    from manta.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "MantaError"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The clients, when they are first asked for: the engine needs none of their libraries."""
    if name in ("AsyncClient", "Client"):
        from manta import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
