"""Work that goes on when the request that began it does not."""

import asyncio
from contextvars import ContextVar

from manta.detached import detached
from manta.telemetry import log_scope

of_request: ContextVar[str] = ContextVar("of_request", default="none")


async def test_it_knows_nothing_of_the_request_but_the_scope_of_its_log():
    of_request.set("mine")
    log_scope.set({"run": "r"})

    async def look() -> tuple[str, object]:
        return of_request.get(), log_scope.get()

    assert await detached(look()) == ("none", {"run": "r"})
    assert of_request.get() == "mine"


async def test_it_outlives_its_request():
    begun, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(0)
        done.set()

    async def request() -> None:
        detached(work())
        await begun.wait()
        await asyncio.sleep(3600)

    asked = asyncio.create_task(request())
    await begun.wait()
    asked.cancel()
    async with asyncio.timeout(30):
        await done.wait()
