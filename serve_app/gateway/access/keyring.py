"""Keys as this gateway knows them: asked of the journal once, believed for some seconds."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from coordinator.api_keys import holds, read_key_text
from coordinator.store.key_records import KeyOnFile
from manta.clock import Clock
from manta.detached import detached
from manta.errors import Unauthorized, Unavailable

FRESH_S = 5.0
"""A key that is made or revoked is known here after so many seconds at most."""
STALE_S = 60.0
"""What was known is believed for so long while no coordinator answers."""
KEPT = 10_000
LOOKUPS = 8
"""At once: callers with made-up keys must not take the coordinator's attention from others."""

T = TypeVar("T")
Find: TypeAlias = Callable[[str], Awaitable[KeyOnFile | None]]
Any_: TypeAlias = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class _Known(Generic[T]):
    value: T
    at: float


class KeyRing:
    """`find` and `any_key` ask the journal.

    `always`: a key is asked for even where the journal has none.
    """

    def __init__(self, find: Find, any_key: Any_, clock: Clock, *, always: bool) -> None:
        self._find, self._any_key = find, any_key
        self._clock = clock
        self._always = always
        self._known: OrderedDict[str, _Known[KeyOnFile | None]] = OrderedDict()
        self._asked: dict[str, asyncio.Task[KeyOnFile | None]] = {}
        self._places = asyncio.Semaphore(LOOKUPS)
        self._required: _Known[bool] | None = None

    async def open(self) -> bool:
        """Whether callers without a key come in. Raises Unavailable while that is not known."""
        if self._always:
            return False
        known = self._required
        if known is None or self._age(known) >= FRESH_S:
            try:
                known = _Known(await self._any_key(), self._clock.monotonic())
            except Unavailable:
                if known is None or self._age(known) >= STALE_S:
                    raise
            self._required = known
        return not known.value

    async def admit(self, credentials: str) -> KeyOnFile:
        """The key that a bearer's credentials are of.

        Raises:
            Unauthorized: it is no key, or one that does not hold; always the same error.
            Unavailable: it cannot be looked up now.
        """
        shown = read_key_text(credentials)
        on_file = await self._look_up(shown.id) if shown else None
        if not holds(on_file, shown.secret if shown else "", self._clock.now()) or on_file is None:
            raise unauthorized()
        return on_file

    async def _look_up(self, key: str) -> KeyOnFile | None:
        known = self._known.get(key)
        if known is not None and self._age(known) < FRESH_S:
            self._known.move_to_end(key)
            return known.value
        try:
            return await asyncio.shield(self._asking(key))
        except Unavailable:
            if known is not None and self._age(known) < STALE_S:
                return known.value
            raise

    def _asking(self, key: str) -> asyncio.Task[KeyOnFile | None]:
        """One question for all who ask it at a time."""
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = detached(self._ask(key))
            task.add_done_callback(lambda done: self._answered(key, done))
        return task

    def _answered(self, key: str, task: asyncio.Task[KeyOnFile | None]) -> None:
        del self._asked[key]
        if not task.cancelled():
            # Looked at here: whoever asked may have left.
            task.exception()

    async def _ask(self, key: str) -> KeyOnFile | None:
        async with self._places:
            found = await self._find(key)
        self._known[key] = _Known(found, self._clock.monotonic())
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return found

    def _age(self, known: _Known[T]) -> float:
        return self._clock.monotonic() - known.at


def unauthorized() -> Unauthorized:
    """One answer to all that is no key, so that none tells of another."""
    return Unauthorized(
        "there is no API key, or one that does not hold", fix="send Authorization: Bearer mk_..."
    )
