"""What the keeper of models has to do next: decided over what the registry wants and what Serve has. Pure."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from coordinator.store.model_records import KeeperPlan, ModelVersion, Route
from serve_app.models.names import model_app, version_behind

LINGER_S = 10.0
"""What lost its share is asked for some seconds more, by processes that have not heard of it (`book.FRESH_S`)."""
AppPhase: TypeAlias = Literal["deploying", "running", "failed", "going"]


@dataclass(frozen=True, slots=True)
class AppState:
    """A Serve application as its controller tells of it. `message`: why it failed. `since`: when it was deployed."""

    phase: AppPhase
    message: str = ""
    replicas: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Deploy:
    """Also of one that is there with other settings: what differs is changed in place."""

    version: ModelVersion


@dataclass(frozen=True, slots=True)
class Activate:
    model: str
    revision: int


@dataclass(frozen=True, slots=True)
class Fail:
    model: str
    revision: int
    error: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Nobody asks it any more, and the time for which it was held ready is over."""

    model: str
    version: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Serve lets its streams end. One that is wanted still is then deployed anew."""

    app: str


Action: TypeAlias = Deploy | Activate | Fail | Retire | Delete


def decide(
    plan: KeeperPlan, apps: Mapping[str, AppState], deployed: Mapping[str, str], now: float
) -> list[Action]:
    """What is to be done, in this order.

    Args:
        apps: by the application's name; others than models' are passed over.
        deployed: the settings, as `digest` has them, with which this keeper deployed an application last.
    """
    wanted = {model_app(v.model, v.version): v for v in plan.up}
    pending = _settled(plan.pending, apps)
    held = {model_app(route.model, version) for route in plan.pending for version in route.weights}
    return [
        *(Deploy(v) for app, v in wanted.items() if _lacks(app, v, apps, deployed)),
        *pending,
        *(Retire(v.model, v.version) for app, v in wanted.items() if app not in held and _over(v, now)),
        *(Delete(app) for app, state in apps.items() if _is_left(app, state, wanted)),
    ]


def digest(version: ModelVersion) -> str:
    return hashlib.sha256(json.dumps(version.settings, sort_keys=True).encode()).hexdigest()


def _lacks(
    app: str, version: ModelVersion, apps: Mapping[str, AppState], deployed: Mapping[str, str]
) -> bool:
    state = apps.get(app)
    # One that is going comes back under its name only when it is gone.
    return state is None or (state.phase != "going" and deployed.get(app) != digest(version))


def _settled(pending: Collection[Route], apps: Mapping[str, AppState]) -> list[Action]:
    settled: list[Action] = []
    for route in pending:
        states = {version: apps.get(model_app(route.model, version)) for version in route.weights}
        failed = {v: state for v, state in states.items() if state is not None and state.phase == "failed"}
        # What failed before somebody asked for it once more may start now.
        stale = [v for v, state in failed.items() if state.since < route.created_at]
        if stale:
            settled += [Delete(model_app(route.model, version)) for version in stale]
        elif failed:
            version, state = next(iter(failed.items()))
            settled.append(Fail(route.model, route.revision, f"version {version}: {state.message}"))
        elif all(state is not None and state.phase == "running" for state in states.values()):
            settled.append(Activate(route.model, route.revision))
    return settled


def _over(version: ModelVersion, now: float) -> bool:
    return version.down_at is not None and version.down_at + LINGER_S <= now


def _is_left(app: str, state: AppState, wanted: Collection[str]) -> bool:
    return version_behind(app) is not None and app not in wanted and state.phase != "going"
