"""Deploys the platform on a running Ray; also what `serve run serve_app.app:build` deploys.

All parts are started at once and then watched until each is ready, so the slowest decides how long it takes.
"""

import contextlib
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
from coordinator.declared_models import declare_models
from coordinator.ray_runtime import RayRuntime, member_names
from coordinator.store.model_records import Book, ModelVersion, Served
from manta.config import Settings, load_settings
from manta.errors import MantaError, PlatformError
from manta.graph import Graph
from serve_app.composition import Composition
from serve_app.coordinators import coordinator_names
from serve_app.gateway.app import gateway_application
from serve_app.gateway.shapes import whole_run_json
from serve_app.models.cache.actor import CACHE_ACTOR
from serve_app.models.deployment import embedder_application
from serve_app.models.handles import ServeEmbedder
from serve_app.models.keeper import KEEPER_ACTOR, ModelKeeper
from serve_app.models.names import EMBEDDER_APP, model_app
from serve_app.models.statuses import model_apps, told
from tools.actor import DOCUMENTS_ACTOR, DocumentsActor
from tools.ray_calls import NAMESPACE, unwrap

GATEWAY_APP = "manta"
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
    serving = _serving()
    book = declare_models(settings, serving=serving)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.server.host, "port": settings.server.port, "request_timeout_s": None},
    )
    parts = [*_start_backstage(composition, graphs), *_start_applications(composition, book, serving=serving)]
    _watch(parts, report, settings.longest_start_s)


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
    serving = _serving()
    book = declare_models(settings, serving=serving)
    _start_backstage(composition, composition.graphs())
    serve.run_many(_targets(composition, book, serving=serving), wait_for_applications_running=False)
    _keeper(composition)
    return gateway_application(composition.platform, settings.log_level)


def undeploy(settings: Settings) -> None:
    """Take this platform's parts off a cluster that goes on without them; other applications stay."""
    # The coordinator first: a run that loses its models under a living one would be written down as failed.
    actors = (*coordinator_names(settings.coordinator), *member_names(settings.agents))
    for name in (*actors, KEEPER_ACTOR, DOCUMENTS_ACTOR):
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    for name in (GATEWAY_APP, *model_apps(), EMBEDDER_APP):
        serve.delete(name, _blocking=False)
    # Last: whoever still answers would make it again.
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(CACHE_ACTOR, namespace=NAMESPACE))


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


def _start_applications(composition: Composition, book: Book, *, serving: bool) -> list[_Part]:
    gateway = RunTarget(
        gateway_application(composition.platform, composition.settings.log_level), GATEWAY_APP, "/"
    )
    serve.run_many(
        [*_targets(composition, book, serving=serving), gateway], wait_for_applications_running=False
    )
    _keeper(composition)
    names = {_part_name(served, v): model_app(v.model, v.version) for served, v in _versions(book)}
    names |= {"embedder": EMBEDDER_APP, "gateway": GATEWAY_APP}
    return [_Part(part, lambda app=app: _runs(app)) for part, app in names.items()]  # type: ignore[misc]


def _targets(composition: Composition, book: Book, *, serving: bool) -> list[RunTarget]:
    """The file's versions that answer, and the embedder. What else the registry wants, the keeper deploys."""
    settings, checkpoints = composition.settings, composition.checkpoints()
    targets = [
        RunTarget(
            checkpoints.application(version, there=serving),
            model_app(version.model, version.version),
            None,
        )
        for _, version in _versions(book)
    ]
    embedder = embedder_application(
        checkpoints.embedder(settings.embedder), settings.home, settings.log_level
    )
    return [*targets, RunTarget(embedder, EMBEDDER_APP, None)]


def _versions(book: Book) -> list[tuple[Served, ModelVersion]]:
    """Those without which this platform is not what its settings say; others the keeper deploys beside them."""
    return [
        (served, version) for served in book.models for version in served.versions if version.source == "file"
    ]


def _serving() -> bool:
    """Whether a platform is at work here already, whose models go on to answer."""
    try:
        ray.get_actor(KEEPER_ACTOR, namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def _part_name(served: Served, version: ModelVersion) -> str:
    name = f"model {served.model}"
    return name if len(served.versions) == 1 else f"{name} version {version.version}"


def _keeper(composition: Composition) -> None:
    """The keeper of models, or the one that is there, which goes by these settings from now on."""
    actor_class: Any = ray.remote(ModelKeeper)
    registry, build = composition.links().registry(), composition.checkpoints().application
    keeper = actor_class.options(
        name=KEEPER_ACTOR,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        num_cpus=0.05,
        # It looks for models' files where the settings were checked.
        scheduling_strategy=_this_node(),
    ).remote(registry, build, composition.settings.log_level)
    keeper.use.remote(registry, build)


def _watch(parts: list[_Part], report: Report, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
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
            raise PlatformError(f"{names} did not come up in {timeout_s:.0f} s", fix="see `manta logs`")
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


def _runs(app: str) -> bool:
    """As Serve sees the application; a failed one is raised as the error its replica told of."""
    state = serve.status().applications.get(app)
    if state is None:
        return False
    if state.status == "DEPLOY_FAILED":
        code, text = told(state)
        if code:
            raise PlatformError(text, code=code)
        raise PlatformError(f"{app} did not start: {text}", fix="see `manta logs`", code="start_failed")
    return bool(state.status == "RUNNING")


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
    return _this_node()


def _this_node() -> NodeAffinitySchedulingStrategy:
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
        scheduling_strategy=_this_node(),
    ).remote(str(settings.home / "documents"), ServeEmbedder())
