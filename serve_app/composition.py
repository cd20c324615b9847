"""The composition root: turns settings into the platform's parts and hands each what it needs. Picklable."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coordinator
from agents.hosting import Hosting
from coordinator.graph_library import load_library
from coordinator.key_check import check_keys
from coordinator.submission import check_schemas
from coordinator.webhook_post import signing_keys
from manta.config import Settings
from manta.errors import InvalidConfig
from manta.graph import Graph, Names, check_names
from serve_app.gateway.deps import Platform
from serve_app.gateway.guard import allowed_hosts
from serve_app.gateway.hidden_graphs import with_hidden
from serve_app.links import Links
from serve_app.models.checkpoints import Checkpoints
from serve_app.models.handles import ServeEmbedder
from serve_app.models.keeper import KEEPER_ACTOR
from tools.actor import RemoteDocuments
from tools.ray_calls import NamedActor

OUR_PACKAGES = ("agents", "coordinator", "manta", "serve_app", "tools")


@dataclass(frozen=True, slots=True)
class Composition:
    settings: Settings

    def links(self) -> Links:
        return Links.of(self.settings)

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.settings.project, self.settings.log_level)

    def platform(self) -> Platform:
        """Called in each gateway replica."""
        links = self.links()
        return Platform(
            coordinator=links.coordinator(),
            documents=RemoteDocuments(),
            artifacts=links.artifacts(),
            models=links.models(),
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

    def hosting(self) -> Hosting:
        settings = self.settings
        return Hosting(
            agents=settings.agents,
            tools=settings.tools,
            search=settings.search,
            sandbox=settings.sandbox,
            connect=self.links().host_parts,
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
        checkpoints = self.checkpoints()
        for name, model in self.settings.models.items():
            checkpoints.model(name, model)
        checkpoints.embedder(self.settings.embedder)

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
