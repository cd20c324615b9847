"""Models, their versions and routes as plain values. Times are seconds since the epoch."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Source: TypeAlias = Literal["file", "api"]
Sticky: TypeAlias = Literal["run", "user", "none"]
"""What meets the same version again: the calls of a run, those of a user, or nothing."""
Why: TypeAlias = Literal["declared", "added", "promoted", "split", "rolled_back"]
RouteState: TypeAlias = Literal["pending", "active", "past", "failed"]
"""`pending`: its versions are being deployed, and the active one goes on to serve."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model's settings, as `ModelSettings` has them in JSON; of these only `replicas` ever changes.

    `up`: it is to be deployed. `down_at`: when it may go down; None: as long as it is up.
    """

    model: str
    version: int
    settings: dict[str, Any]
    source: Source
    note: str
    created_by: str
    created_at: float
    up: bool
    down_at: float | None


@dataclass(frozen=True, slots=True)
class Route:
    """Which share of a model's calls goes to which version: `weights` by version need not add up to anything.

    `active_at` to `ended_at`: when it served. `error`: why it failed.
    """

    model: str
    revision: int
    weights: dict[int, int]
    sticky: Sticky
    why: Why
    state: RouteState
    created_by: str
    created_at: float
    active_at: float | None
    error: str
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """A model that answers: its active route and the versions that have a share in it."""

    model: str
    route: Route
    versions: tuple[ModelVersion, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """All models that answer. `generation` is another one after every change."""

    generation: int
    models: tuple[Served, ...]


@dataclass(frozen=True, slots=True)
class KeeperPlan:
    """What is to be deployed, and the routes that wait for it."""

    generation: int
    up: tuple[ModelVersion, ...]
    pending: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class ModelOnFile:
    """A model with what was decided about it: `history` has the newest routes first, 20 at most."""

    model: str
    versions: tuple[ModelVersion, ...]
    route: Route | None
    pending: Route | None
    history: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class ArmTotals:
    """All that one process saw of a version under one revision of a route since it started.

    `calls`: those that ended, `failures` and `answered` of them. The sums are over those answered: natural
    logarithms of the seconds to the first piece and to the end, and millionths of money.
    """

    model: str
    revision: int
    version: int
    calls: int = 0
    failures: int = 0
    answered: int = 0
    first_log_sum: float = 0.0
    first_log_squares: float = 0.0
    total_log_sum: float = 0.0
    total_log_squares: float = 0.0
    output_tokens: int = 0
    micros_sum: float = 0.0
    micros_squares: float = 0.0
