"""The composition root: turns settings into the platform's parts and hands each what it needs. Picklable."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

import coordinator
from agents.actor import Coordinators, Relay
from agents.context import LocalArtifacts
from agents.host import HostParts
from agents.hosting import Hosting
from coordinator.graph_library import load_library
from coordinator.key_check import check_keys
from coordinator.store.model_records import ModelVersion
from coordinator.submission import check_schemas
from coordinator.webhook_post import signing_keys
from manta.clock import SystemClock
from manta.config import EMBEDDED, EmbedderSettings, ModelSettings, Settings
from manta.errors import InvalidConfig, ModelLoadError
from manta.graph import Graph, Names, check_names
from serve_app.coordinators import AnyCoordinator, coordinator_names
from serve_app.gateway.deps import Platform
from serve_app.gateway.guard import allowed_hosts
from serve_app.gateway.hidden_graphs import with_hidden
from serve_app.models.deployment import model_application
from serve_app.models.handles import ServeEmbedder
from serve_app.models.keeper import KEEPER_ACTOR
from serve_app.models.platform_models import ServeModels
from serve_app.models.registry import Registry
from tools.actor import RemoteDocuments
from tools.ray_calls import NamedActor

OUR_PACKAGES = ("agents", "coordinator", "manta", "serve_app", "tools")


@dataclass(frozen=True, slots=True)
class Composition:
    settings: Settings

    def registry(self) -> Registry:
        return Registry(AnyCoordinator(coordinator_names(self.settings.coordinator)))

    def models(self) -> ServeModels:
        return ServeModels(self.registry(), self.settings.default_model, self.settings.routers)

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

    def platform(self) -> Platform:
        """Called in each gateway replica."""
        return Platform(
            coordinator=AnyCoordinator(coordinator_names(self.settings.coordinator)),
            documents=RemoteDocuments(),
            artifacts=self.artifacts(),
            models=self.models(),
            keeper=NamedActor(KEEPER_ACTOR),
            embedder=ServeEmbedder(),
            default_model=self.settings.default_model,
            allowed_hosts=self._allowed_hosts(),
            keys_always=not self.settings.server.on_loopback,
            cors_origins=self.settings.server.cors_origins,
        )

    def _allowed_hosts(self) -> tuple[str, ...]:
        server = self.settings.server
        ours = allowed_hosts(server.host)
        return () if not ours or "*" in server.allowed_hosts else (*ours, *server.allowed_hosts)

    def artifacts(self) -> LocalArtifacts:
        return LocalArtifacts(self.settings.home / "artifacts")

    def hosting(self) -> Hosting:
        settings = self.settings
        return Hosting(
            agents=settings.agents,
            tools=settings.tools,
            search=settings.search,
            sandbox=settings.sandbox,
            connect=self.host_parts,
            log_level=settings.log_level,
        )

    def graphs(self) -> dict[str, Graph]:
        """The ready graphs and the user's own with their sub-graphs, each checked against what there is.

        Raises:
            InvalidGraph: one of them cannot run here.
        """
        graphs = with_hidden(load_library(self.settings))
        for graph in graphs.values():
            check_names(graph, self.names())
            check_schemas(graph)
        return graphs

    def names(self) -> Names:
        return Names(frozenset(self.settings.agents), frozenset(self.settings.tools))

    def check(self) -> None:
        """What can be known to be wrong before anything is started.

        Raises:
            InvalidGraph, InvalidConfig, ModelLoadError, StorageUnavailable: the first thing that is.
        """
        self.graphs()
        self.shipped_folder()
        signing_keys(self.settings.webhooks)
        check_keys(self.settings)
        for name, model in self.settings.models.items():
            self.model(name, model)
        self.embedder()

    def model_application(self, version: ModelVersion, *, there: bool = False) -> serve.Application:
        """`there`: it was deployed before. Raises ModelLoadError: what it is to load is not there."""
        model = self.model(version.model, ModelSettings.model_validate(version.settings))
        return model_application(version.model, version.version, model, self.settings.log_level, there=there)

    def model(self, name: str, model: ModelSettings) -> ModelSettings:
        """A model's settings with its checkpoint's path made whole: replicas run elsewhere than here."""
        local = self.settings.project / Path(model.source).expanduser()
        if model.backend == "server" and local.exists():
            return model.model_copy(update={"source": str(local)})
        if model.backend != "torch" or model.source == EMBEDDED:
            return model
        return model.model_copy(update={"source": self._checkpoint(model.source, f"models.{name}.source")})

    def embedder(self) -> EmbedderSettings:
        embedder = self.settings.embedder
        if embedder.source == EMBEDDED:
            return embedder
        return embedder.model_copy(update={"source": self._checkpoint(embedder.source, "embedder.source")})

    def _checkpoint(self, source: str, key: str) -> str:
        path = self.settings.project / Path(source).expanduser()
        if not path.exists():
            raise ModelLoadError(f"{key}: there is no file {path}", fix=f"check {key}")
        return str(path)

    def shipped_folder(self) -> dict[str, Any]:
        """The runtime environment that ships the folder of `manta.yaml`, when it names code of the user's own.

        Ray takes a folder at the level of its job only, so every worker gets it.

        Raises:
            InvalidConfig: the folder has a package that would hide one of Manta's.
        """
        settings = self.settings
        own_code = bool(settings.tools) or any(agent.use for agent in settings.agents.values())
        steps = [step for graph in load_library(settings).values() for step in graph.all_steps()]
        paths = [path for step in steps for path in (step.call, step.runnable) if path]
        own_code = own_code or any(path.split(".")[0] not in OUR_PACKAGES for path in paths)
        if not (settings.ships_code and own_code):
            return {}
        root = Path(coordinator.__file__).parent.parent
        for name in OUR_PACKAGES:
            if settings.project != root and list(settings.project.glob(f"{name}/__init__.py")):
                cause = f"{settings.project}/{name} would hide Manta's package {name!r} in the workers"
                raise InvalidConfig(cause, fix="rename it")
        return {
            "working_dir": str(settings.project),
            "excludes": [".git", ".venv", "out", "home", "**/__pycache__"],
        }
