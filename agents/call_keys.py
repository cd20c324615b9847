"""What makes two calls of a step execution the same call: the hash of the request and its place among equals."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from manta.messages import ChatRequest, to_json

_UNSET: dict[str, Any] = to_json(ChatRequest(messages=()))
_ALWAYS = frozenset(
    [
        "messages",
        "model",
        "tools",
        "tool_choice",
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "seed",
        "response_format",
    ]
)


def canonical(value: Any) -> str:
    """One text per JSON value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def request_hash(value: Any) -> str:
    """SHA-256, in hex, of a JSON value's canonical text."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def request_body(request: ChatRequest) -> dict[str, Any]:
    """What a model is asked, as JSON, without the hints: they change between tries and never the answer.

    What a caller did not set of the later fields is left out, so that a request has the key it always had.
    """
    body: dict[str, Any] = to_json(request)
    del body["hints"]
    return {name: value for name, value in body.items() if name in _ALWAYS or value != _UNSET[name]}


def messages_hash(model: str, messages: Sequence[Any]) -> str:
    """16 hex digits that name these messages to this model: what a token count is noted under."""
    return request_hash([model, to_json(list(messages))])[:16]


class Claim:
    """A key held by one call; `kept` once the call has its outcome."""

    __slots__ = ("kept", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self.kept = False


class Occurrences:
    """Numbers equal requests of one attempt: 0, 1, 2, ...

    A call that ends without an outcome gives its number back, so that the agent's own next try of it has
    the key the replay will look for. Equal requests in flight together may swap numbers between two
    attempts; being equal, either outcome answers either of them.
    """

    def __init__(self) -> None:
        self._taken: dict[str, set[int]] = {}

    @contextmanager
    def claim(self, base: str) -> Iterator[Claim]:
        """The lowest free number, as a claim on `base:n`; freed at the end unless it was `kept`."""
        taken = self._taken.setdefault(base, set())
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        taken.add(number)
        claim = Claim(f"{base}:{number}")
        try:
            yield claim
        finally:
            if not claim.kept:
                taken.discard(number)
