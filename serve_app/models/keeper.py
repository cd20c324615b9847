"""The keeper of models: the one process that deploys their versions, activates their routes, and takes them down."""

import asyncio
import contextlib
import threading
from typing import Any, Protocol

from ray import serve
from ray.serve import RunTarget

from coordinator.store.model_records import ModelVersion
from manta.clock import SystemClock
from manta.errors import MantaError
from manta.telemetry import configure_logging, get_logger
from serve_app.models.keeping import (
    Action,
    Activate,
    AppState,
    Delete,
    Deploy,
    Fail,
    Retire,
    decide,
    digest,
)
from serve_app.models.names import model_app
from serve_app.models.registry import Registry
from serve_app.models.statuses import model_apps

KEEPER_ACTOR = "manta-models"
POLL_S = 1.0
IDLE_S = 10.0
LOOK_AWAY_S = 5.0
"""After something went wrong outside."""

logger = get_logger("models")


class Build(Protocol):
    def __call__(self, version: ModelVersion, *, there: bool) -> serve.Application: ...


class ModelKeeper:
    """A Ray actor. It remembers nothing that matters: what is wanted is in the registry, what is there in Serve.

    Args:
        build: the application of a version, which may be there already. Raises MantaError when its settings cannot
            be served from here.
    """

    def __init__(self, registry: Registry, build: Build, log_level: str) -> None:
        configure_logging(log_level)
        self._registry = registry
        self._build = build
        self._clock = SystemClock()
        self._apps: dict[str, AppState] = {}
        self._deployed: dict[str, str] = {}
        self._unfit: dict[str, AppState] = {}
        self._loop = asyncio.new_event_loop()
        self._called = asyncio.Event()
        threading.Thread(target=self._run, name="keeper", daemon=True).start()

    def use(self, registry: Registry, build: Build) -> None:
        """What a platform that is deployed once more, with other settings, goes by."""

        def change() -> None:
            self._registry, self._build = registry, build
            self._deployed.clear()
            self._called.set()

        self._loop.call_soon_threadsafe(change)

    def look(self) -> None:
        """Something was changed in the registry."""
        self._loop.call_soon_threadsafe(self._called.set)

    def states(self) -> dict[str, dict[str, Any]]:
        """Each model's application as last seen: its `state`, `message` and running `replicas`."""
        return {
            app: {"state": state.phase, "message": state.message, "replicas": state.replicas}
            for app, state in self._seen().items()
        }

    def _seen(self) -> dict[str, AppState]:
        """What cannot even be deployed counts as what has failed to start."""
        return {**self._unfit, **self._apps}

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._keep())

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._called.wait()
        self._called.clear()

    async def _keep(self) -> None:
        while True:
            try:
                await self._rest(await self._round())
            except MantaError as error:
                logger.warning("models stay as they are: %s", error)
                await self._clock.sleep(LOOK_AWAY_S)
            except Exception:
                logger.exception("models stay as they are for now")
                await self._clock.sleep(LOOK_AWAY_S)

    async def _round(self) -> float:
        """Seconds until the next look is due."""
        plan = await self._registry.plan()
        self._apps = await asyncio.to_thread(model_apps)
        wanted = {model_app(version.model, version.version) for version in plan.up}
        self._unfit = {app: why for app, why in self._unfit.items() if app in wanted}
        actions = decide(plan, self._seen(), self._deployed, self._clock.now())
        done = [await self._done(action) for action in actions]
        if not all(done):
            return LOOK_AWAY_S
        # What is on its way is seen by looking only; all else is told by `look`, or is not urgent.
        return POLL_S if actions or plan.pending else IDLE_S

    async def _done(self, action: Action) -> bool:
        """One model's trouble is not another's."""
        try:
            await self._act(action)
        except Exception:
            logger.exception("this is tried again: %s", action)
            return False
        return True

    async def _act(self, action: Action) -> None:
        match action:
            case Deploy(version):
                await self._deploy(version)
            case Activate(model, revision):
                logger.info("model %s goes by its route %s", model, revision)
                await self._registry.activate(model, revision)
            case Fail(model, revision, error):
                logger.warning("route %s of model %s cannot be had: %s", revision, model, error)
                await self._registry.fail(model, revision, error)
            case Retire(model, version):
                await self._registry.retire(model, version)
            case Delete(app):
                self._deployed.pop(app, None)
                if self._unfit.pop(app, None) is None:
                    logger.info("%s is taken down", app)
                    await asyncio.to_thread(serve.delete, app, _blocking=False)

    async def _deploy(self, version: ModelVersion) -> None:
        app = model_app(version.model, version.version)
        try:
            target = RunTarget(self._build(version, there=app in self._apps), app, None)
        except (MantaError, ValueError) as error:
            # Settings that this release of Manta, or this machine, has no use for.
            self._unfit[app] = AppState("failed", " ".join(str(error).split()), since=self._clock.now())
            self._deployed[app] = digest(version)
            return
        logger.info("%s is deployed", app)
        await asyncio.to_thread(serve.run_many, [target], wait_for_applications_running=False)
        self._deployed[app] = digest(version)
