"""Holds one answer to its form, token by token."""

from typing import Any

import numpy as np
import numpy.typing as npt

from manta.errors import ModelError


class Guide:
    """Where an answer stands in its form. One request owns it; it outlives a pre-emption like the tokens do."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._forced: list[int] | None = None

    @property
    def stopped(self) -> bool:
        """Whether the form is complete and nothing may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def forced(self) -> list[int]:
        """The tokens that must come next, where the form leaves no choice."""
        if self._forced is None:
            self._forced = self._matcher.compute_ff_tokens()
        return self._forced

    def allows(self, token: int) -> bool:
        """Whether the token may come next, nothing being forced. Much cheaper than `allowed`."""
        return bool(self._matcher.validate_tokens([token]) == 1)

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next [vocabulary]; end tokens only where the form may end.

        Raises:
            ModelError: the form became too complex for llguidance's limits.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """Go on past a chosen token. Raises ModelError for one that is not allowed, and likewise."""
        # Asked for behind each token, and again before the next choice.
        self._forced = None
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            cause = " ".join(self._matcher.get_error().split())[:300]
            raise ModelError(f"the answer cannot be held to its form: {cause}", fix="ask for a simpler form")
