"""The two kinds of writes of which there are many at once, as the group writer takes them."""

from collections.abc import Sequence

from sqlalchemy import Connection

from coordinator.store.commit import commit
from coordinator.store.creation import Created, Creation, create_run, create_together
from coordinator.store.fast_commit import Commit, commit_together
from manta.clock import Clock
from manta.events import Event


class Commits:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def alone(self, connection: Connection, item: Commit) -> list[Event]:
        return commit(connection, *item, self._clock.now())

    def together(self, connection: Connection, items: Sequence[Commit]) -> list[list[Event]] | None:
        return commit_together(connection, items, self._clock.now())


class Creations:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def alone(self, connection: Connection, item: Creation) -> Created:
        return create_run(connection, *item, self._clock.now())

    def together(self, connection: Connection, items: Sequence[Creation]) -> list[Created] | None:
        return create_together(connection, items, self._clock.now())
