"""What is likely to follow, looked up in what a request has read and said: agents repeat their inputs. Pure.

Prompt lookup (Saxena, 2023): where the last three tokens stood before, what followed them then is guessed to follow
again. The model computes the guess beside the next token, and what it would have chosen otherwise is dropped.
"""

from collections.abc import Iterable

GRAM = 3
"""Tokens that must be the same: two are so by chance too often."""
LONGEST_PAUSE = 32


class Lookup:
    """One request's text. After each guess that was wrong from its first token on it pauses for longer."""

    def __init__(self, tokens: Iterable[int], most: int) -> None:
        self._most = most
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        self._pause = 0
        self._waits = 0
        if most:
            self.add(tokens)

    def add(self, tokens: Iterable[int]) -> None:
        """What follows in the text."""
        if not self._most:
            return
        for token in tokens:
            if len(self._tokens) >= GRAM:
                self._ends[self._gram()] = len(self._tokens)
            self._tokens.append(token)
            self._waits = max(0, self._waits - 1)

    def guess(self) -> tuple[int, ...]:
        """The tokens that may follow, most likely none."""
        if self._waits or len(self._tokens) < GRAM or not self._most:
            return ()
        end = self._ends.get(self._gram())
        if end is None:
            return ()
        # A copy that runs into its own beginning goes on with it: what goes round in a circle will do so further.
        text = self._tokens[end:]
        while len(text) < self._most:
            text += text
        return tuple(text[: self._most])

    def heard(self, guessed: int, right: int) -> None:
        """So many of a guess's tokens were right."""
        if right:
            self._pause = 0
        elif guessed:
            self._pause = min(LONGEST_PAUSE, max(1, 2 * self._pause))
            self._waits = self._pause

    def _gram(self) -> tuple[int, ...]:
        return tuple(self._tokens[-GRAM:])
