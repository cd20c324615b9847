"""Waiting until something holds, within a generous deadline that says what was waited for."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest


async def eventually(holds: Callable[[], Any], what: str, seconds: float = 30) -> None:
    """`holds` may be a plain function or a coroutine function; it is asked again and again."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                answer = holds()
                if await answer if asyncio.iscoroutine(answer) else answer:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"{what} did not come true")
