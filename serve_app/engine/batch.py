"""One step's work for the model, as values: which tokens, where in the request, where in the cache."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one request: token i is at `position + i`; `pages` hold its KV from position 0 on.

    `wanted`: of how many of its last tokens the logits are asked for. None while a prompt is read; one where the last
    known token is the segment's last, so that the next must be chosen; more where guesses follow it.
    """

    tokens: tuple[int, ...]
    pages: tuple[int, ...]
    position: int
    wanted: int

    @property
    def end(self) -> int:
        """How many tokens of the request are in the cache after this step, guesses included."""
        return self.position + len(self.tokens)

    def filled(self, page: int) -> tuple[int, ...]:
        """Its pages of so many places that hold something after this step."""
        return self.pages[: -(-self.end // page)]

    @property
    def guessed(self) -> tuple[int, ...]:
        """Its tokens that are a guess."""
        return self.tokens[len(self.tokens) - self.wanted + 1 :] if self.wanted > 1 else ()
