"""A request as a value, and how its answer or its error is read."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from manta.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    MantaError,
    NotFound,
    PlatformError,
    Unauthorized,
    Unavailable,
    error_from_json,
)
from manta.sse import unexpected

T = TypeVar("T")
_BY_STATUS: dict[int, type[MantaError]] = {
    400: InvalidInput,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: InvalidInput,
    429: Unavailable,
    503: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request and how its answer is read. `repeatable`: sending it twice does no more than once."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    json: Any = None
    content: bytes | None = None
    params: Mapping[str, str | int | Sequence[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    read_timeout_s: float = 60.0
    accepts: frozenset[int] = frozenset()
    """Statuses over 399 that are answers too."""


def answer(call: Call[T], response: httpx.Response) -> T:
    """The parsed answer. Raises the MantaError that an error response describes."""
    if response.status_code >= 400 and response.status_code not in call.accepts:
        raise error_of(response)
    try:
        return call.parse(response)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise unexpected(f"{call.method} {call.path}: {type(error).__name__}: {error}") from None


def error_of(response: httpx.Response) -> MantaError:
    """The error in a response; one with a code that no class has gets the class of its status."""
    error = _described_error(response)
    kind = _BY_STATUS.get(response.status_code)
    if type(error) is MantaError and kind is not None:
        return kind(error.message, fix=error.fix, code=error.code)
    return error


def _described_error(response: httpx.Response) -> MantaError:
    """Reads both shapes of errors: the Agent Protocol's and OpenAI's."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        inner = body["error"]
        return error_from_json({**inner, "code": inner.get("code") or inner.get("type") or "error"})
    if isinstance(body, dict) and "message" in body:
        metadata = body.get("metadata")
        fix = metadata.get("fix", "") if isinstance(metadata, dict) else body.get("fix", "")
        return error_from_json({"code": body.get("code", "error"), "message": body["message"], "fix": fix})
    return PlatformError(
        f"HTTP {response.status_code} from {response.url}",
        fix="see manta logs",
        code=f"http_{response.status_code}",
    )


def unreachable(base_url: str, error: Exception) -> MantaError:
    return PlatformError(f"no answer at {base_url}: {error}", fix="manta up", code="platform_unreachable")


def part(value: str) -> str:
    """A text as one part of a path."""
    return quote(value, safe="")


def once() -> dict[str, str]:
    """Headers of a request that the service carries out once, however often it is sent."""
    return {"Idempotency-Key": str(uuid.uuid4())}


def nothing(response: httpx.Response) -> None:
    """Of answers without a body."""


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
