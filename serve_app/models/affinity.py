"""Which replica a call should go to, so that it meets the KV that is kept of its run or of its prompt. Pure.

Replicas are ranked by rendezvous hashing: each has a score for a key, and the highest is the key's own. Every router
comes to the same order without a word to the others and remembers nothing, and a replica that comes or goes takes
only its own keys with it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manta.messages import ChatRequest

PREFIX_CHARS = 1024
"""About 256 tokens: long enough to tell prompts apart, and short of where those of one kind differ."""


@dataclass(frozen=True, slots=True)
class Place:
    """A replica as a router sees it: requests that it has, and how many it takes."""

    replica: str
    load: int
    limit: int


def affinity_key(request: ChatRequest) -> bytes | None:
    """What calls share that should meet: their run, else the beginning of their prompt. None: nothing."""
    if request.hints.run is not None:
        return _digest("run", request.hints.tenant, request.hints.run)
    prefix = _prefix(request)
    return _digest("prefix", prefix) if prefix else None


def _prefix(request: ChatRequest) -> str:
    if request.prompt is not None:
        return request.prompt[:PREFIX_CHARS]
    if request.prompt_ids:
        return " ".join(str(token) for token in request.prompt_ids[: PREFIX_CHARS // 4])
    first: list[str] = []
    for message in request.messages:
        first.append(message.role + ":" + message.content[:PREFIX_CHARS])
        if message.role != "system":
            break
    return "\n".join(first)[:PREFIX_CHARS]


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).digest()


def ranked(key: bytes, replicas: Sequence[str]) -> list[str]:
    """All of them, the key's own first."""
    return sorted(replicas, key=lambda replica: _score(key, replica), reverse=True)


def _score(key: bytes, replica: str) -> bytes:
    return hashlib.blake2b(replica.encode(), key=key[:64], digest_size=8).digest()


def preference(key: bytes, places: Sequence[Place], slack: int) -> list[str]:
    """The replicas in the order in which they should be asked.

    The key's own is first unless it is full or has over `slack` requests more than the least busy one. Then the next
    in the key's order that is neither is, so that what has to leave meets its like elsewhere too.
    """
    if not places:
        return []
    by_name = {place.replica: place for place in places}
    least = min(place.load for place in places)
    order = ranked(key, list(by_name))
    return sorted(order, key=lambda replica: _tier(by_name[replica], least + slack))


def _tier(place: Place, most: int) -> int:
    if place.load >= place.limit:
        return 2
    return 1 if place.load > most else 0


def balanced(places: Sequence[Place], chance: Mapping[str, float]) -> list[str]:
    """The least busy first; equals by chance, a number for each."""
    return [place.replica for place in sorted(places, key=lambda p: (p.load, chance[p.replica]))]
