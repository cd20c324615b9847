"""A load in a process of its own: `python -m benchmarks.lean_load` reads its order from stdin and tells of answers.

A line of JSON comes in. Lines go out, a second apart: `{"answers": [[since, first, whole, status, fault, in, out],
...]}`, and at last `{"end": {...}}`. Once stdin ends nothing new is asked, and what is under way is waited for.
"""

import asyncio
import dataclasses
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.lean_client import Answer, Pool, Question, question

TELL_S = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """`clients` ask one request after the other; with `rate` requests begin by chance, so many a second, whatever
    becomes of those before. It ends after `seconds`, or after `requests` of all clients together.
    """

    url: str
    path: str
    body: dict[str, Any]
    key: str = ""
    clients: int = 1
    rate: float = 0.0
    requests: int = 0
    seconds: float = 600.0
    seed: int = 0

    def question(self) -> Question:
        return question(self.url, self.path, self.body, self.key)


@dataclass(slots=True)
class Tally:
    """What came, and is not told yet. `late`: seconds behind its moment that a request was sent at most."""

    began: float
    told: Callable[[dict[str, Any]], None]
    waiting: list[tuple[float, Answer]] = field(default_factory=list)
    asked: int = 0
    late: float = 0.0

    def note(self, due: float, answer: Answer) -> None:
        self.waiting.append((due - self.began, answer))

    def tell(self) -> None:
        if self.waiting:
            rows = [[round(since, 4), *dataclasses.astuple(answer)] for since, answer in self.waiting]
            self.told({"answers": rows})
            self.waiting.clear()


async def closed(order: Order, pool: Pool, tally: Tally, stop: asyncio.Event) -> None:
    """Every client has one request under way."""
    asked, ends = order.question(), tally.began + order.seconds

    async def client() -> None:
        while not stop.is_set() and time.perf_counter() < ends:
            if order.requests and tally.asked >= order.requests:
                return
            tally.asked += 1
            due = time.perf_counter()
            tally.note(due, await pool.ask(asked, tally.asked, due))

    await asyncio.gather(*(client() for _ in range(order.clients)))


async def opened(order: Order, pool: Pool, tally: Tally, stop: asyncio.Event) -> None:
    """Poisson arrivals. A request's time counts from when it was due, so that a late client hides nothing."""
    asked, chance = order.question(), random.Random(order.seed)
    due, ends = tally.began, tally.began + order.seconds
    under_way: set[asyncio.Task[None]] = set()

    async def one(number: int, due: float) -> None:
        tally.note(due, await pool.ask(asked, number, due))

    while True:
        due += chance.expovariate(order.rate)
        if due >= ends or (order.requests and tally.asked >= order.requests):
            break
        if await _stopped(stop, due - time.perf_counter()):
            break
        tally.late = max(tally.late, time.perf_counter() - due)
        tally.asked += 1
        task = asyncio.create_task(one(tally.asked, due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    if seconds <= 0:
        return stop.is_set()
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


async def carry_out(order: Order, told: Callable[[dict[str, Any]], None], stop: asyncio.Event) -> None:
    pool, tally = Pool(), Tally(time.perf_counter(), told)
    used = time.process_time()

    async def teller() -> None:
        while True:
            await asyncio.sleep(TELL_S)
            tally.tell()

    telling = asyncio.create_task(teller())
    try:
        await (opened if order.rate else closed)(order, pool, tally, stop)
    finally:
        telling.cancel()
        pool.close()
    tally.tell()
    end = {
        "seconds": time.perf_counter() - tally.began,
        "asked": tally.asked,
        "cpu_s": time.process_time() - used,
        "late_s": tally.late,
    }
    told({"end": end})


async def _main() -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = Order(**json.loads(await reader.readline()))

    async def watch() -> None:
        await reader.read()
        stop.set()

    watching = asyncio.create_task(watch())
    await carry_out(order, _write, stop)
    watching.cancel()


def _write(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main())
