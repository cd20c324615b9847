"""How a process of the platform reaches the other parts. Picklable, and light: an agent's process imports no more."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agents.actor import Coordinators, Relay
from agents.context import LocalArtifacts
from agents.host import HostParts
from manta.clock import SystemClock
from manta.config import Settings
from manta.model_settings import RouterSettings
from serve_app.coordinators import AnyCoordinator, coordinator_names
from serve_app.models.platform_models import ServeModels
from serve_app.models.registry import Registry
from tools.actor import RemoteDocuments


@dataclass(frozen=True, slots=True)
class Links:
    home: Path
    coordinators: tuple[str, ...]
    default_model: str
    routers: Mapping[str, RouterSettings]

    @staticmethod
    def of(settings: Settings) -> "Links":
        names = coordinator_names(settings.coordinator)
        return Links(settings.home, names, settings.default_model, settings.routers)

    def coordinator(self) -> AnyCoordinator:
        return AnyCoordinator(self.coordinators)

    def registry(self) -> Registry:
        return Registry(self.coordinator())

    def models(self) -> ServeModels:
        return ServeModels(self.registry(), self.default_model, self.routers)

    def artifacts(self) -> LocalArtifacts:
        return LocalArtifacts(self.home / "artifacts")

    def host_parts(self) -> HostParts:
        """Called in each agent's process."""
        coordinators = Coordinators()
        return HostParts(
            models=self.models(),
            documents=RemoteDocuments(),
            artifacts=self.artifacts(),
            call_log=coordinators.call_log,
            watchers=Relay(coordinators, SystemClock().now),
        )
