"""What the rooms of the library have in common: they write and read through the journal's own doors."""

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

from manta.clock import Clock
from manta.errors import InvalidInput, NotFound

T = TypeVar("T")


class Door(Protocol):
    """Runs an operation on a connection, in a transaction, and gives what it returns."""

    async def __call__(self, operation: Callable[[Connection], T], /) -> T: ...


class Room:
    """`write` is durable when it returns and may run an operation more than once; `read` only reads."""

    def __init__(self, write: Door, read: Door, clock: Clock) -> None:
        self._write = write
        self._read = read
        self._clock = clock


def new_id() -> str:
    return str(uuid.uuid4())


def plain_id(value: str, missing: Callable[[str], NotFound]) -> str:
    """The id, if it can be one at all: PostgreSQL refuses some text as a parameter. Raises what `missing` gives."""
    if len(value) > 255 or not value.isascii() or not value.isprintable():
        raise missing(value[:255])
    return value


def require_object(what: str, value: Any) -> dict[str, Any]:
    """Raises InvalidInput unless the value is a JSON object."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidInput(f"{what} must be an object", fix='send {"name": value, ...}')
    return dict(value)


def encoded(what: str, value: Any) -> str:
    """The value as JSON text; equal values give equal text. Raises InvalidInput when it is not plain JSON."""
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is not plain JSON: {error}", fix="send plain JSON values") from error


def require_page(limit: int, offset: int = 0) -> None:
    """Raises InvalidInput for a page that no database could turn to."""
    if not 1 <= limit <= 1000 or not 0 <= offset < 1 << 31:
        raise InvalidInput("limit must be 1 to 1000 and offset at least 0", fix="ask for a smaller page")
