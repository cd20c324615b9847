"""What every agent is built from: its setup, handed over once when its pool starts."""

from dataclasses import dataclass, field
from typing import Any, Literal

from manta.config import SandboxSettings, SearchSettings
from tools.toolbox import Toolbox


@dataclass(frozen=True, slots=True)
class AgentSetup:
    """An agent's share of the settings. `options` is free-form and the agent's own to check."""

    name: str
    strategy: Literal["auto", "pipeline", "agent"] = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    tools: Toolbox = field(default_factory=Toolbox)
    search: SearchSettings = field(default_factory=SearchSettings)
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
