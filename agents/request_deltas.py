"""Requests told as differences to earlier ones, so that a tool loop's record grows with its turns, not their square.

Each turn of a loop asks with all messages of the turn before and a few more. Its request is then kept as
`{"base": key, "keep": n, "messages": [the others], "set": {changed fields}}`. The base always has fewer
messages, so whatever order calls are made in, no two can be told by each other.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from agents.call_keys import canonical
from manta.errors import NotFound

REMEMBERED = 8
"""Earlier requests that a new one is compared with."""

Body: TypeAlias = dict[str, Any]


class _Outline:
    """A body as texts: equal values of other types, 1 and 1.0 say, are not the same request."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.messages = [canonical(message) for message in body["messages"]]
        self.fields = {name: canonical(value) for name, value in body.items() if name != "messages"}

    def shared_with(self, other: "_Outline") -> int:
        """How many first messages are the same."""
        count = 0
        for one, another in zip(self.messages, other.messages, strict=False):
            if one != another:
                break
            count += 1
        return count


def shorten(body: Body, earlier: Mapping[str, Body]) -> Body:
    """The body, or its difference to that one of `earlier` (by call key) with which it shares most messages.

    Args:
        body: a model call's request, as `agents.call_keys.request_body` makes it.
    """
    return _shortened(_Outline(body), [(key, _Outline(base)) for key, base in earlier.items()])


def restore(requests: Mapping[str, Body]) -> dict[str, Body]:
    """The whole requests of a step execution, by call key. Those that are no differences stay as they are.

    Raises:
        NotFound: code `request_lost`, a request is told by one that is not there.
    """
    known: dict[str, Body] = {}
    for key in requests:
        for member in reversed(_chain(key, requests, known)):
            known[member] = whole(requests[member], known)
    return known


def whole(request: Body, known: Mapping[str, Body]) -> Body:
    """A request made whole by the one it is told by, which is among `known`."""
    if "base" not in request:
        return request
    base = known[request["base"]]
    body = {name: value for name, value in base.items() if name not in request.get("unset", ())}
    messages = [*base["messages"][: request["keep"]], *request["messages"]]
    return {**body, **request.get("set", {}), "messages": messages}


class RecentRequests:
    """The requests that the record was given last."""

    def __init__(self) -> None:
        self._recent: deque[tuple[str, _Outline]] = deque(maxlen=REMEMBERED)

    def shorten(self, body: Body) -> Body:
        return _shortened(_Outline(body), self._recent)

    def remember(self, key: str, body: Body) -> None:
        """The record has it now: later ones may be told by it."""
        self._recent.append((key, _Outline(body)))


def _shortened(new: _Outline, earlier: Iterable[tuple[str, _Outline]]) -> Body:
    best, kept = None, 0
    for key, base in earlier:
        if len(base.messages) < len(new.messages) and (shared := base.shared_with(new)) > kept:
            best, kept = (key, base), shared
    if best is None:
        return new.body
    key, base = best
    delta = {"base": key, "keep": kept, "messages": new.body["messages"][kept:]}
    changed = {name: new.body[name] for name, text in new.fields.items() if base.fields.get(name) != text}
    gone = [name for name in base.fields if name not in new.fields]
    return {**delta, **({"set": changed} if changed else {}), **({"unset": gone} if gone else {})}


def _chain(key: str, requests: Mapping[str, Body], known: Mapping[str, Body]) -> Sequence[str]:
    """The request and those it is told by, down to one that is whole or known."""
    chain: list[str] = []
    at: str | None = key
    while at is not None and at not in known:
        if at not in requests or at in chain:
            cause = f"the request of call {key} is told by that of {at}, which is not there"
            raise NotFound(cause, fix="the record is not whole", code="request_lost")
        chain.append(at)
        at = requests[at].get("base")
    return chain
