"""What is likely to follow, looked up in what a request has read and said: agents repeat their inputs. Pure.

Prompt lookup (Saxena, 2023): where the last three tokens stood before, what followed them then is guessed to follow
again. The model computes the guess beside the next token, and what it would have chosen otherwise is dropped.
"""

from collections.abc import Iterable, Sequence

GRAM = 3
"""Tokens that must be the same: two are so by chance too often."""
LONGEST_PAUSE = 32


class Lookup:
    """One request's text. After each guess that was wrong from its first token on it pauses for longer."""

    def __init__(self, tokens: Iterable[int], most: int) -> None:
        self._most = most
        self._tokens = list(tokens) if most else []
        self._read = 0
        self._ends: dict[tuple[int, ...], int] = {}
        self._pause = 0
        self._waits = 0

    def add(self, tokens: Sequence[int]) -> None:
        """What follows in the text."""
        if self._most:
            self._tokens += tokens
            self._waits = max(0, self._waits - len(tokens))

    def guess(self) -> tuple[int, ...]:
        """The tokens that may follow, most likely none."""
        if self._waits or not self._most:
            return ()
        self._read_on()
        end = self._ends.get(tuple(self._tokens[-GRAM:]))
        if end is None:
            return ()
        # A copy that runs into its own beginning goes on with it: what goes round in a circle will do so further.
        text = self._tokens[end : end + self._most]
        while len(text) < self._most:
            text += text
        return tuple(text[: self._most])

    def _read_on(self) -> None:
        """Remember where each run of tokens ended last, but for the one at the end of the text."""
        tokens = self._tokens
        for end in range(max(GRAM, self._read), len(tokens)):
            self._ends[tuple(tokens[end - GRAM : end])] = end
        self._read = len(tokens)

    def heard(self, guessed: int, right: int) -> None:
        """So many of a guess's tokens were right."""
        if right:
            self._pause = 0
        elif guessed:
            self._pause = min(LONGEST_PAUSE, max(1, 2 * self._pause))
            self._waits = self._pause
