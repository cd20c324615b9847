"""The coordinators as one: any of them answers about any run, and the one that drives a run tells most of it."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from agents.actor import COORDINATOR, coordinator_link
from coordinator.store.records import RunRecord
from manta.clock import Clock, SystemClock
from manta.config import CoordinatorSettings
from manta.errors import Unavailable
from manta.patience import while_unavailable
from tools.ray_calls import NamedActor

OWNERS_KEPT = 10_000
FIRST_TRY_S = 0.5
"""How long one of several coordinators is asked before the next is."""


def coordinator_names(settings: CoordinatorSettings) -> tuple[str, ...]:
    """The actors' names; stable, so that a coordinator that restarts knows its runs."""
    return tuple(COORDINATOR if n == 0 else f"{COORDINATOR}-{n}" for n in range(settings.replicas))


class AnyCoordinator:
    """Calls go to the coordinator that drives the run in question, as far as that is known, else in turn."""

    def __init__(self, names: Sequence[str], clock: Clock | None = None) -> None:
        self._names = tuple(names)
        self._clock = clock or SystemClock()
        self._links: dict[str, NamedActor] = {}
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._turn = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return AnyCoordinator, (self._names,)

    async def call(self, method: str, *arguments: Any, patience_s: float = 15.0) -> Any:
        """Every call must be idempotent: it is repeated, also elsewhere, until one answers.

        Raises:
            MantaError: the method's own. CoordinatorUnavailable: none answered in time.
        """

        async def once() -> Any:
            answer = await self._ask_around(method, arguments)
            self._learn(answer)
            return answer

        return await while_unavailable(once, self._clock, patience_s)

    async def _ask_around(self, method: str, arguments: tuple[Any, ...]) -> Any:
        *others, last = self._in_order(arguments)
        for name in others:
            try:
                return await self._link(name).call(method, *arguments, patience_s=FIRST_TRY_S)
            except Unavailable:
                continue
        return await self._link(last).call(method, *arguments, patience_s=0)

    def _in_order(self, arguments: tuple[Any, ...]) -> list[str]:
        self._turn += 1
        start = self._turn % len(self._names)
        names = [*self._names[start:], *self._names[:start]]
        owner = next((self._owners[a] for a in arguments if isinstance(a, str) and a in self._owners), None)
        return sorted(names, key=lambda name: name != owner)

    def _learn(self, answer: Any) -> None:
        record = answer[0] if isinstance(answer, tuple) and answer else answer
        if isinstance(record, RunRecord) and record.owner in self._names:
            self._owners[record.id] = record.owner
            self._owners.move_to_end(record.id)
            while len(self._owners) > OWNERS_KEPT:
                self._owners.popitem(last=False)

    def _link(self, name: str) -> NamedActor:
        if name not in self._links:
            self._links[name] = coordinator_link(name)
        return self._links[name]
