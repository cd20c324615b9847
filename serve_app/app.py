"""Deploys the platform on a running Ray; also what `serve run serve_app.app:build` deploys.

All parts are started at once and then watched until each is ready, so the slowest decides how long it takes.
"""

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import ray
from ray import serve
from ray.serve import RunTarget
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coordinator.actor import GROUPS, CoordinatorActor
from coordinator.ray_runtime import RayRuntime, member_names
from manta.config import Settings, load_settings
from manta.errors import MantaError, PlatformError
from manta.graph import Graph
from serve_app.composition import Composition
from serve_app.coordinators import coordinator_names
from serve_app.gateway.app import gateway_application
from serve_app.gateway.shapes import whole_run_json
from serve_app.models.deployment import embedder_application, model_application
from serve_app.models.handles import EMBEDDER_APP, ServeEmbedder, model_app
from tools.actor import DOCUMENTS_ACTOR, DocumentsActor
from tools.ray_calls import NAMESPACE, unwrap

GATEWAY_APP = "manta"
READY_TIMEOUT_S = 150.0
"""Less than the 180 s for which `manta up` waits, so that it hears which part was late."""
POLL_S = 0.1

State: TypeAlias = Literal["starting", "ready", "failed"]
Report: TypeAlias = Callable[[str, State, str], None]
"""Told of each part: its name, its state, a detail."""


@dataclass(frozen=True, slots=True)
class _Part:
    """`ready` answers at once; it raises a MantaError when the part has failed for good."""

    name: str
    ready: Callable[[], bool]


def _silent(component: str, state: State, detail: str) -> None:
    """Nobody watches."""


def deploy(settings: Settings, report: Report = _silent) -> None:
    """Bring every part up on the Ray this process is connected to. Safe to repeat: what is there stays.

    Raises:
        MantaError: a part could not start; the report has named it.
    """
    composition = Composition(settings)
    graphs = composition.graphs()
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.server.host, "port": settings.server.port, "request_timeout_s": None},
    )
    parts = [*_start_backstage(composition, graphs), *_start_applications(settings, composition)]
    _watch(parts, report)


def build(arguments: dict[str, str] | None = None) -> serve.Application:
    """The gateway as an application, for `serve run serve_app.app:build config=manta.yaml` and `serve deploy`.

    Building it starts the coordinator, the documents and the models where it is built, so one command deploys
    the whole platform; with SQLite that node then holds the journal. Code of your own goes along by the
    command's `--working-dir`.
    """
    config = (arguments or {}).get("config")
    settings = load_settings(Path(config) if config else None)
    composition = Composition(settings)
    composition.check()
    _start_backstage(composition, composition.graphs())
    serve.run_many(_model_targets(composition), wait_for_applications_running=False)
    return gateway_application(composition.platform, settings.log_level)


def undeploy(settings: Settings) -> None:
    """Take this platform's parts off a cluster that goes on without them; other applications stay."""
    # The coordinator first: a run that loses its models under a living one would be written down as failed.
    for name in (*coordinator_names(settings.coordinator), *member_names(settings.agents), DOCUMENTS_ACTOR):
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    for name in (GATEWAY_APP, *(model_app(model) for model in settings.models), EMBEDDER_APP):
        serve.delete(name, _blocking=False)


def _start_backstage(composition: Composition, graphs: Mapping[str, Graph]) -> list[_Part]:
    """The coordinators, the documents and the agents."""
    settings = composition.settings
    coordinators = [
        start_coordinator(composition, graphs, name) for name in coordinator_names(settings.coordinator)
    ]
    documents = _documents(settings)
    journals = [_Answer(coordinator.health) for coordinator in coordinators]

    def journals_open() -> bool:
        return all((journal.get() or {}).get("journal") for journal in journals)

    agents = _Answer(coordinators[0].prewarm)
    return [
        _Part("coordinator", journals_open),
        _Part("documents", _Answer(documents.ping).arrived),
        _Part("agents", agents.arrived),
    ]


def _start_applications(settings: Settings, composition: Composition) -> list[_Part]:
    gateway = RunTarget(gateway_application(composition.platform, settings.log_level), GATEWAY_APP, "/")
    serve.run_many([*_model_targets(composition), gateway], wait_for_applications_running=False)
    statuses = _Statuses()
    names = {f"model {name}": model_app(name) for name in settings.models}
    names |= {"embedder": EMBEDDER_APP, "gateway": GATEWAY_APP}
    return [_Part(part, lambda app=app: statuses.running(app)) for part, app in names.items()]  # type: ignore[misc]


def _model_targets(composition: Composition) -> list[RunTarget]:
    settings = composition.settings
    targets = [
        RunTarget(model_application(name, composition.model(name), settings.log_level), model_app(name), None)
        for name in settings.models
    ]
    embedder = embedder_application(composition.embedder(), settings.home, settings.log_level)
    return [*targets, RunTarget(embedder, EMBEDDER_APP, None)]


def _watch(parts: list[_Part], report: Report) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    for part in parts:
        report(part.name, "starting", "")
    waiting = list(parts)
    while waiting:
        for part in list(waiting):
            try:
                if part.ready():
                    waiting.remove(part)
                    report(part.name, "ready", "")
            except MantaError as error:
                report(part.name, "failed", str(error))
                raise
        if waiting and time.monotonic() > deadline:
            names = ", ".join(part.name for part in waiting)
            raise PlatformError(f"{names} did not come up in {READY_TIMEOUT_S:.0f} s", fix="see `manta logs`")
        time.sleep(POLL_S)


class _Answer:
    """Asks an actor method again and again without ever waiting for it."""

    def __init__(self, method: Any) -> None:
        self._method = method
        self._pending: Any = None

    def get(self) -> Any:
        """The last answer, or None while it is not there; the next call then asks anew."""
        if self._pending is None:
            self._pending = self._method.remote()
        ready, _ = ray.wait([self._pending], timeout=0)
        if not ready:
            return None
        pending, self._pending = self._pending, None
        try:
            return ray.get(pending) or {}
        except ray.exceptions.RayTaskError as error:
            raise _as_manta_error(unwrap(error)) from None
        except ray.exceptions.RayActorError:
            # It is being restarted; the next look finds it.
            return None

    def arrived(self) -> bool:
        return self.get() is not None


class _Statuses:
    """Serve's view of the applications; a failed one is raised as the error its replica told of."""

    def running(self, app: str) -> bool:
        state = serve.status().applications.get(app)
        if state is None:
            return False
        if state.status == "DEPLOY_FAILED":
            messages = [state.message, *(d.message for d in state.deployments.values())]
            raise _told("\n".join(messages), app)
        return bool(state.status == "RUNNING")


_TOLD = re.compile(r"manta\.errors\.(\w+): (\w+): (.*)")


def _told(message: str, app: str) -> MantaError:
    """Serve keeps a replica's exception only as text: its last line with one of our errors is the cause."""
    found = _TOLD.findall(message)
    if found:
        _, code, text = found[-1]
        return PlatformError(text, code=code)
    cause = " ".join(message.split())[-300:]
    return PlatformError(f"{app} did not start: {cause}", fix="see `manta logs`", code="start_failed")


def _as_manta_error(error: Exception) -> MantaError:
    return error if isinstance(error, MantaError) else PlatformError(str(error), fix="see `manta logs`")


def start_coordinator(composition: Composition, graphs: Mapping[str, Graph], name: str) -> Any:
    """The coordinator of this name, or the one that is there, on the Ray this process is connected to."""
    settings = composition.settings
    runtime = RayRuntime(composition.hosting())
    actor_class: Any = ray.remote(concurrency_groups=GROUPS)(CoordinatorActor)  # type: ignore[call-overload]
    return actor_class.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=settings.coordinator.num_cpus,
        scheduling_strategy=_here(settings),
    ).remote(name, settings, runtime, graphs, composition.names(), whole_run_json)


def _here(settings: Settings) -> Any:
    """With SQLite the coordinator and its file must stay on this node."""
    if not settings.journal_url.startswith("sqlite"):
        return "DEFAULT"
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _documents(settings: Settings) -> Any:
    actor_class: Any = ray.remote(DocumentsActor)
    return actor_class.options(
        name=DOCUMENTS_ACTOR,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_concurrency=64,
        num_cpus=0.1,
        # Its folder lies on this node.
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        ),
    ).remote(str(settings.home / "documents"), ServeEmbedder())
