"""Who is asked for a model: of each name the version that its route chooses. Pure, but for the chance handed in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from coordinator.routes import by_share, choose, sticky_key
from coordinator.store.model_records import Book, ModelVersion, Route
from manta.messages import CallHints, Price
from manta.model_settings import ModelSettings
from manta.telemetry import get_logger
from serve_app.models.calls.rules import CallRules, chain

logger = get_logger("models")


@dataclass(frozen=True, slots=True)
class Arm:
    """One version of a model, as calls of it see it. `compared`: others are beside it in its route's `revision`."""

    model: str
    version: int
    revision: int
    compared: bool
    settings: ModelSettings = field(compare=False)
    rules: CallRules = field(compare=False)
    price: Price = field(compare=False)

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True)
class Routed:
    """A model that answers: its route and the versions in it."""

    route: Route
    arms: Mapping[int, Arm]

    @property
    def in_order(self) -> list[Arm]:
        """By their shares, of equal ones the newest first."""
        return [self.arms[version] for version in by_share(self.route.weights) if version in self.arms]

    @property
    def primary(self) -> Arm:
        return self.in_order[0]


Routes = Mapping[str, Routed]


def read_book(book: Book) -> dict[str, Routed]:
    """Versions that this release of Manta cannot read are left out, and models of which nothing is left."""
    routes: dict[str, Routed] = {}
    for served in book.models:
        found = [(v.version, _read(served.route, v)) for v in served.versions]
        arms = {version: arm for version, arm in found if arm is not None}
        if arms:
            routes[served.model] = Routed(served.route, arms)
    return routes


def _read(route: Route, version: ModelVersion) -> Arm | None:
    try:
        settings = ModelSettings.model_validate(version.settings)
    except ValidationError as error:
        cause = " ".join(str(error).split())[:300]
        logger.error("version %s of model %s cannot be read: %s", version.version, version.model, cause)
        return None
    return Arm(
        version.model,
        version.version,
        route.revision,
        len(route.weights) > 1,
        settings,
        CallRules.of(settings),
        Price(**settings.price.model_dump()),
    )


def arms_for(routes: Routes, name: str, hints: CallHints, draw: Callable[[], float]) -> list[Arm]:
    """Who is asked, in order: the chosen version, the name's others, then its fallbacks likewise.

    That the others stand in for it keeps a canary that fails from costing answers.

    Args:
        name: of `routes`.
        draw: a number in [0, 1), for calls that stick to nothing.
    """
    fallbacks = {other: routed.primary.rules.fallbacks for other, routed in routes.items()}
    found: list[Arm] = []
    for other in chain(name, fallbacks):
        # One that was removed meanwhile is passed over.
        if other in routes:
            found += _arms_of(routes[other], hints, draw)
    return found


def _arms_of(routed: Routed, hints: CallHints, draw: Callable[[], float]) -> Sequence[Arm]:
    if len(routed.arms) == 1:
        return [routed.primary]
    key = sticky_key(routed.route.sticky, hints.run, hints.tenant, hints.user)
    chosen = routed.arms.get(choose(routed.route, str(draw()) if key is None else key), routed.primary)
    return [chosen, *(arm for arm in routed.in_order if arm is not chosen)]
