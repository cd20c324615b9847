"""Deploys the platform on a running Ray, part by part; also what `serve run serve_app.app:build` deploys."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import ray
from ray import serve

from agents.actor import COORDINATOR
from coordinator.actor import GROUPS, CoordinatorActor
from coordinator.ray_runtime import RayRuntime
from manta.config import Settings, load_settings
from manta.errors import MantaError, PlatformError
from serve_app.composition import Composition
from serve_app.gateway.app import gateway_application
from serve_app.models.deployment import embedder_application, model_application
from serve_app.models.handles import EMBEDDER_APP, ServeEmbedder, model_app
from tools.actor import DOCUMENTS_ACTOR, DocumentsActor
from tools.ray_calls import NAMESPACE, unwrap

GATEWAY_APP = "manta"
READY_TIMEOUT_S = 300.0

State: TypeAlias = Literal["starting", "ready", "failed"]
Report: TypeAlias = Callable[[str, State, str], None]
"""Told of each part: its name, its state, a detail."""


def _silent(component: str, state: State, detail: str) -> None:
    """Nobody watches."""


def deploy(settings: Settings, report: Report = _silent) -> None:
    """Bring every part up on the Ray this process is connected to. Safe to repeat: what is there stays.

    Raises:
        MantaError: a part could not start; the report has named it.
    """
    composition = Composition(settings)
    graphs = composition.graphs()
    start_serve(settings)
    parts: list[tuple[str, Callable[[], None]]] = [("coordinator", lambda: _coordinator(composition, graphs))]
    parts += [(f"model {name}", _model_starter(settings, name)) for name in settings.models]
    parts += [
        ("embedder", lambda: _run(embedder_application(settings.embedder, settings.log_level), EMBEDDER_APP, None)),
        ("documents", lambda: _documents(settings)),
        ("gateway", lambda: _run(gateway_application(composition.platform, settings.log_level), GATEWAY_APP, "/")),
        ("agents", _prewarm),
    ]
    for name, start in parts:
        report(name, "starting", "")
        try:
            start()
        except Exception as error:
            known = error if isinstance(error, MantaError) else _failure(name, error)
            report(name, "failed", str(known))
            raise known from error
        report(name, "ready", "")


def start_serve(settings: Settings) -> None:
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.server.host, "port": settings.server.port, "request_timeout_s": None},
    )


def build(arguments: dict[str, str] | None = None) -> serve.Application:
    """The gateway as an application for `serve run serve_app.app:build config=manta.yaml` and `serve deploy`.

    Deploys the other parts on the way, so one command brings up the whole platform on an existing cluster.
    """
    from pathlib import Path

    config = (arguments or {}).get("config")
    settings = load_settings(Path(config) if config else None)
    composition = Composition(settings)
    deploy_backstage(composition)
    return gateway_application(composition.platform, settings.log_level)


def deploy_backstage(composition: Composition) -> None:
    """Everything but the gateway."""
    settings = composition.settings
    _coordinator(composition, composition.graphs())
    for name in settings.models:
        _model_starter(settings, name)()
    _run(embedder_application(settings.embedder, settings.log_level), EMBEDDER_APP, None)
    _documents(settings)


def undeploy(settings: Settings) -> None:
    """Take this platform's parts off a cluster that goes on without them; other applications stay."""
    for name in (GATEWAY_APP, *(model_app(model) for model in settings.models), EMBEDDER_APP):
        serve.delete(name)
    members = [f"manta-agent-{name}-{i}" for name, pool in settings.agents.items() for i in range(pool.size)]
    for name in (COORDINATOR, DOCUMENTS_ACTOR, *members):
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))


def _model_starter(settings: Settings, name: str) -> Callable[[], None]:
    def start() -> None:
        _run(model_application(name, settings.models[name], settings.log_level), model_app(name), None)

    return start


def _run(application: serve.Application, name: str, route: str | None) -> None:
    serve.run(application, name=name, route_prefix=route)


def _coordinator(composition: Composition, graphs: dict[str, Any]) -> None:
    settings = composition.settings
    runtime = RayRuntime(composition.hosting(), composition.runtime_env())
    actor_class: Any = ray.remote(concurrency_groups=GROUPS)(CoordinatorActor)
    handle = actor_class.options(
        name=COORDINATOR,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=0.1,
        scheduling_strategy=_here(settings),
    ).remote(settings.journal_url, runtime, graphs, composition.names(), settings.log_level)
    _wait(lambda: ray.get(handle.health.remote(), timeout=10)["journal"], "the coordinator did not open its journal")


def _here(settings: Settings) -> Any:
    """With SQLite the coordinator and its file must stay on this node."""
    if not settings.journal_url.startswith("sqlite"):
        return "DEFAULT"
    node = ray.get_runtime_context().get_node_id()
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)


def _documents(settings: Settings) -> None:
    actor_class: Any = ray.remote(DocumentsActor)
    handle = actor_class.options(
        name=DOCUMENTS_ACTOR,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_concurrency=64,
        num_cpus=0.1,
    ).remote(str(settings.home / "documents"), ServeEmbedder())
    ray.get(handle.ping.remote(), timeout=60)


def _prewarm() -> None:
    handle = ray.get_actor(COORDINATOR, namespace=NAMESPACE)
    ray.get(handle.prewarm.remote(), timeout=READY_TIMEOUT_S)


def _wait(condition: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise PlatformError(failure, fix="see `manta logs`")
        time.sleep(0.1)


def _failure(name: str, error: Exception) -> MantaError:
    if isinstance(error, ray.exceptions.RayTaskError):
        found = unwrap(error)
        if isinstance(found, MantaError):
            return found
    cause = " ".join(str(error).split())[-400:]
    return PlatformError(f"{name} did not start: {cause}", fix="see `manta logs`", code="start_failed")
