"""Questions that may have each other's answers, by their vectors."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MOST = 1024
"""Vectors that are compared with a question: what it costs to look stays under a millisecond."""
_ROUNDING = 1e-5
"""By so much the cosine of a text with itself may fall short of 1."""


class Neighbours:
    """Keys with their vectors; float32 as bytes, of length 1, all with as many dimensions."""

    def __init__(self) -> None:
        self._vectors: dict[str, bytes] = {}
        self._matrix: NDArray[np.float32] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._vectors)

    def add(self, key: str, vector: bytes) -> None:
        self._vectors[key] = vector
        self._matrix = None

    def remove(self, key: str) -> int:
        """How many are left."""
        del self._vectors[key]
        self._matrix = None
        return len(self._vectors)

    def to_make_room(self) -> str | None:
        """The one that has to go before another comes; None: there is room."""
        return None if len(self._vectors) < MOST else next(iter(self._vectors))

    def nearest(self, vector: bytes, threshold: float) -> str | None:
        """The key whose vector is most like this one, if their cosine is at least the threshold."""
        if not self._vectors:
            return None
        if self._matrix is None:
            together = np.frombuffer(b"".join(self._vectors.values()), np.float32)
            self._matrix = together.reshape(len(self._vectors), -1)
        cosines = self._matrix @ np.frombuffer(vector, np.float32)
        best = int(cosines.argmax())
        return list(self._vectors)[best] if cosines[best] >= threshold - _ROUNDING else None
