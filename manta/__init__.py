"""Manta: multi-agent orchestration on Ray. The ground floor: the contract, the client and the command line."""

from manta.client import AsyncClient, Client
from manta.errors import MantaError

__all__ = ["AsyncClient", "Client", "MantaError"]
__version__ = "0.1.0"
