"""Memory that was freed, given back to the system."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any


def give_back() -> None:
    """What malloc keeps of freed memory for the next time goes back; takes up to 10 ms.

    Activations are large and of many sizes, so that without this a process keeps a multiple of what it needs.
    """
    _trim()(0)


@cache
def _trim() -> Callable[[int], Any]:
    """glibc's; other C libraries give back by themselves."""
    return getattr(ctypes.CDLL(None), "malloc_trim", lambda keep: 0)
