"""One PostgreSQL for all tests of this folder, and a disk that is soon full."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.faults.colony import Colony
from tests.store.support import Postgres, postgres_server
from tests.store.test_crash import small_disk

__all__ = ["small_disk"]

MakeColony = Callable[..., Colony]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def shared(postgres: Postgres) -> str:
    """The URL of an empty journal that several coordinators can share."""
    return postgres.database()


@pytest.fixture
async def colony(request: pytest.FixtureRequest) -> AsyncIterator[MakeColony]:
    """Makes colonies on the shared journal, or on the one at `url`."""
    made: list[Colony] = []

    def make(graph: dict[str, Any], url: str = "", **options: Any) -> Colony:
        made.append(Colony(url or request.getfixturevalue("shared"), graph, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()
