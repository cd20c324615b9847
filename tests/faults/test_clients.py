"""Clients that send twice, leave, and come back."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from manta.config import ModelSettings
from manta.ids import DEFAULT_TENANT
from serve_app.backends.sleep import SleepBackend
from tests.gateway.platform import Local, start
from tests.gateway.serving import served

THREADS = 50


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Local]:
    made, stop = await start(
        tmp_path, {"sleeper": SleepBackend("sleeper", ModelSettings(backend="sleep", step_s=(0.001, 0)))}
    )
    yield made
    await stop()


async def test_fifty_threads_with_one_key_make_one_run(local: Local):
    together = threading.Barrier(THREADS)

    def send(url: str) -> httpx.Response:
        together.wait(30)
        body = {"agent_id": "echo", "input": {"a": 1}}
        return httpx.post(f"{url}/runs", json=body, headers={"Idempotency-Key": "the-key"}, timeout=30)

    loop = asyncio.get_running_loop()
    async with served(local) as url:
        with ThreadPoolExecutor(THREADS) as threads:
            answers = await asyncio.gather(
                *(loop.run_in_executor(threads, send, url) for _ in range(THREADS))
            )
        assert [answer.status_code for answer in answers] == [200] * THREADS
        [run] = {answer.json()["run_id"] for answer in answers}
        await local.json("GET", f"/runs/{run}/wait")
    assert [record.id for record in await local.service.search(DEFAULT_TENANT)] == [run]
    assert local.runtime.count("work") == 1


async def test_a_client_that_leaves_at_any_event_comes_back_to_the_next(local: Local):
    done = await local.json("POST", "/runs/wait", json={"agent_id": "nested", "input": {"items": [1, 2, 3]}})
    run = done["run"]["run_id"]
    async with served(local) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        whole = [seen async for seen in _ids(client, run, None)]
        assert whole == list(range(1, len(whole) + 1))
        assert len(whole) > 5
        for last in range(len(whole) + 1):
            assert [seen async for seen in _ids(client, run, last)] == whole[last:]


async def test_a_client_that_leaves_after_each_event_misses_none_of_a_run_at_work(local: Local):
    asked = await local.json("POST", "/runs", json={"agent_id": "hold", "input": {}})
    run = asked["run_id"]
    seen: list[int] = []
    async with served(local) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        ended = False
        while not ended:
            ended = True
            async for event in _ids(client, run, seen[-1] if seen else None):
                seen.append(event)
                ended = False
                break
            if len(seen) == 2:
                # The step is at work: its client hears of the end only once it comes.
                local.release.set()
    assert seen == [1, 2, 3, 4]


async def _ids(client: httpx.AsyncClient, run: str, last: int | None) -> AsyncIterator[int]:
    """The durable events of a stream behind `last`, until the stream ends or is left."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    async with client.stream("GET", f"/runs/{run}/stream", headers=headers) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                yield int(line.removeprefix("id: "))
