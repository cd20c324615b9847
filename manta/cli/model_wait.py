"""Waiting until a change of a model holds, with a line on stderr for each step of the way."""

import time
from collections.abc import Callable, Collection
from typing import TypeVar

from manta.cli.common import say
from manta.client import Client
from manta.errors import PlatformError, Unavailable
from manta.wire import Model, ModelRoute, ModelVersion
from manta.wire.model_versions import LOOK_S, settled, up

T = TypeVar("T")


def wait_for_route(client: Client, name: str, route: ModelRoute, timeout: float) -> ModelRoute:
    """The route once it serves. Raises Conflict if it fails, PlatformError (`wait_timeout`)."""
    if route.state != "pending":
        return route
    return _follow(client, name, route.weights, lambda model: settled(model, route.revision), timeout)


def wait_for_version(client: Client, name: str, version: int, timeout: float) -> ModelVersion:
    """A version that was added, once it runs, and answers where it is the first of its name. Raises likewise."""

    def look(model: Model) -> ModelVersion | None:
        routes = [route for route in (model.pending, *model.history) if route and version in route.weights]
        if routes and model.route is None and settled(model, routes[0].revision) is None:
            return None
        return up(model, version)

    return _follow(client, name, [version], look, timeout)


def _follow(
    client: Client, name: str, versions: Collection[int], look: Callable[[Model], T | None], timeout: float
) -> T:
    try:
        return _look_until(client, name, versions, look, timeout)
    except KeyboardInterrupt:
        say(f"the change goes on: manta models status {name}", to_stderr=True)
        raise


def _look_until(
    client: Client, name: str, versions: Collection[int], look: Callable[[Model], T | None], timeout: float
) -> T:
    deadline = time.monotonic() + timeout
    told: dict[int, str] = {}
    while True:
        try:
            model = client.models.get(name)
        except Unavailable as error:
            # What was asked for is kept: whoever is away comes back to it.
            say(f"waiting: {error.message}", to_stderr=True)
        else:
            _tell(model, versions, told)
            found = look(model)
            if found is not None:
                return found
        if time.monotonic() >= deadline:
            raise PlatformError(
                f"{name} is not there after {timeout:g} s, and still on its way",
                fix=f"manta models status {name}",
                code="wait_timeout",
            )
        time.sleep(LOOK_S)


def _tell(model: Model, versions: Collection[int], told: dict[int, str]) -> None:
    for version in model.versions:
        if version.version in versions:
            line = f"{model.name} version {version.version}: {version.state}"
            line += f" ({' '.join(version.message.split())})" if version.message else ""
            if told.get(version.version) != line:
                told[version.version] = line
                say(line, to_stderr=True)
