"""One step's work for the model, as values: which tokens, where in the request, where in the cache."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one request: token i is at `position + i`; `pages` hold its KV from position 0 on.

    `wants_logits`: the last token of the segment is the last known one, so the next must be chosen.
    """

    tokens: tuple[int, ...]
    pages: tuple[int, ...]
    position: int
    wants_logits: bool

    @property
    def end(self) -> int:
        """How many tokens of the request are in the cache after this step."""
        return self.position + len(self.tokens)
