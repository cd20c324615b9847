"""KV of requests that no longer run, kept for prompts with the same beginning. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.engine.kv_pages import KvPages

# Copying fewer tokens than this saves nothing worth the search.
MIN_SHARED = 16
# Bounds the search for a shared beginning.
_MAX_KEPT = 64


@dataclass(slots=True, eq=False)
class Kept:
    """`pages` hold the KV of `tokens`."""

    tokens: tuple[int, ...]
    pages: list[int]


class KeptKv:
    """Least recently used first. What is kept gives way, page by page from its end, to whoever runs."""

    def __init__(self, pages: KvPages) -> None:
        self._pages = pages
        self.entries: list[Kept] = []
        self.pages_held = 0

    def add(self, tokens: Sequence[int], pages: Sequence[int], *, move: bool) -> list[tuple[int, int]]:
        """Take over the pages of a request whose `tokens` are computed; those without use are freed.

        Returns the pages to copy, as (source, target), when they are to `move` out of the running ones' way.
        """
        filled = self._pages.needed(len(tokens)) if len(tokens) >= MIN_SHARED else 0
        for page in pages[filled:]:
            self._pages.give_back(page)
        if not filled:
            return []
        targets = [self._move(page) for page in pages[:filled]] if move else list(pages[:filled])
        self.entries.append(Kept(tuple(tokens), targets))
        self.pages_held += filled
        while len(self.entries) > _MAX_KEPT:
            self._shorten(self.entries[0])
        return [(a, b) for a, b in zip(pages, targets, strict=False) if a != b]

    def longest(self, tokens: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """How many first tokens are here at most, and the pages they are in; it counts as a use."""
        best, found = 0, None
        for kept in self.entries:
            shared = shared_prefix(kept.tokens, tokens)
            if shared > best:
                best, found = shared, kept
        if found is None or best < MIN_SHARED:
            return 0, ()
        self.entries.remove(found)
        self.entries.append(found)
        return best, tuple(found.pages)

    def drop_page(self, spare: Sequence[int] = ()) -> None:
        """Free one page: of what was used longest ago, and last of what shares its beginning with `spare`."""
        useful = max(self.entries, key=lambda kept: shared_prefix(kept.tokens, spare)) if spare else None
        self._shorten(next((kept for kept in self.entries if kept is not useful), self.entries[0]))

    def _move(self, page: int) -> int:
        """A page at the top instead of this one, which is freed; the page itself when there is none."""
        target = self._pages.take_above(page)
        if target is None and self.entries and self.entries[0].pages[-1] > page:
            self._shorten(self.entries[0])
            target = self._pages.take_above(page)
        if target is None:
            return page
        self._pages.give_back(page)
        return target

    def _shorten(self, kept: Kept) -> None:
        self._pages.give_back(kept.pages.pop())
        self.pages_held -= 1
        kept.tokens = kept.tokens[: len(kept.pages) * self._pages.size]
        if not kept.pages:
            self.entries.remove(kept)


def shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens are equal."""
    low, high = 0, min(len(left), len(right))
    own = tuple(left[:high])
    other = tuple(right[:high])
    while low < high:
        middle = (low + high + 1) // 2
        if own[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
