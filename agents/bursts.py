"""Tasks, their ids and results on their way between processes, as lists.

Ray's pickler asks Python code about every value; the interpreter's own does not, and there are many small values.
"""

import pickle
from collections.abc import Sequence
from typing import Any


def pack(values: Sequence[Any]) -> bytes:
    return pickle.dumps(list(values), pickle.HIGHEST_PROTOCOL)


def unpack(packed: bytes) -> list[Any]:
    """Only for what a process of our own has packed: unpickling runs code."""
    values: list[Any] = pickle.loads(packed)
    return values
