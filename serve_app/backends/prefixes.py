"""Which beginnings of prompts a replica has kept, as an engine with a prefix cache has; a model of it that counts."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from itertools import takewhile

from manta.messages import ChatRequest


class Prefixes:
    """Whole messages are kept, each with all before it, those used least lately dropped first.

    Args:
        tokens: so many are held, in words.
    """

    def __init__(self, tokens: int) -> None:
        self._room = tokens
        self._held = 0
        self._kept: OrderedDict[bytes, int] = OrderedDict()

    def read(self, request: ChatRequest) -> tuple[int, int]:
        """The tokens of a prompt, and those of them that were kept; now all are."""
        pieces = list(_chain(request))
        kept = takewhile(lambda piece: piece[0] in self._kept, pieces)
        cached = sum(tokens for _, tokens in kept)
        # The end first: it is then the first to go, as what comes after a gap is of no use.
        for key, tokens in reversed(pieces):
            self._keep(key, tokens)
        return sum(tokens for _, tokens in pieces), cached

    def _keep(self, key: bytes, tokens: int) -> None:
        self._held += tokens - self._kept.pop(key, 0)
        self._kept[key] = tokens
        while self._held > self._room:
            self._held -= self._kept.popitem(last=False)[1]


def _chain(request: ChatRequest) -> Iterator[tuple[bytes, int]]:
    """A key for the prompt up to each of its pieces, and the piece's tokens."""
    pieces: list[tuple[str, str]] = [(message.role, message.content) for message in request.messages]
    if request.prompt is not None:
        pieces = [("", request.prompt)]
    elif request.prompt_ids:
        pieces = [("", " ".join(str(token) for token in request.prompt_ids))]
    key = b""
    for role, text in pieces:
        key = hashlib.sha256(key + f"{role}:{text}".encode(errors="surrogatepass")).digest()
        yield key, len(text.split())
