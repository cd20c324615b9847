"""A gateway that asks for keys, on a clock of the test's own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from coordinator.store.key_records import KeyLimits, KeyUsage, NewKey, Scope
from manta.clock import ManualClock, SystemClock
from manta.ids import Tenant
from manta.protocols import ChatModel
from serve_app.gateway.access.keyring import FRESH_S
from tests.gateway.platform import Local, start
from tests.waiting import eventually

ALL: tuple[Scope, ...] = ("runs:read", "runs:write", "chat")
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Guarded:
    local: Local
    clock: ManualClock

    async def key(
        self, name: str = "ann", *scopes: Scope, tenant: str = "acme", limits: KeyLimits | None = None
    ) -> NewKey:
        return await self.local.service.journal.keys.create(Tenant(tenant), name, scopes or ALL, None, limits)

    async def ask(self, key: NewKey | str | None, method: str, path: str, **request: Any) -> httpx.Response:
        headers = dict(request.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key.text if isinstance(key, NewKey) else key}"
        return await self.local.http.request(method, path, headers=headers, **request)

    async def chat(self, key: NewKey, **body: Any) -> httpx.Response:
        return await self.ask(key, "POST", "/v1/chat/completions", json={**CHAT, **body})

    async def told(self, key: NewKey, holds: Callable[[tuple[KeyUsage, KeyUsage]], bool]) -> None:
        """Returns once the journal's use of today and of this month is as wanted."""
        record = key.record

        async def look() -> bool:
            if holds(await self.local.service.journal.keys.usage(record.tenant, record.principal)):
                return True
            await self.clock.advance(1)
            return False

        await eventually(look, "the use of the key in the journal")

    async def later(self) -> None:
        """What the gateway knows of keys is asked anew from now on."""
        await self.clock.advance(FRESH_S)


@asynccontextmanager
async def guarded(folder: Path, models: dict[str, ChatModel], **options: Any) -> AsyncIterator[Guarded]:
    clock = ManualClock(SystemClock().now())
    local, stop = await start(folder, models, clock=clock, **{"keys_always": True, **options})
    try:
        yield Guarded(local, clock)
    finally:
        await stop()
