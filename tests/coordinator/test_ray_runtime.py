"""What of the Ray runtime needs no Ray: how many tasks it lets at a pool at once, and in which order."""

import asyncio
import pickle

import pytest

from agents.hosting import Hosting
from coordinator.ray_runtime import RayRuntime, _RayLink, member_names
from manta.config import AgentSettings, SandboxSettings, SearchSettings, Settings
from manta.errors import NotFound


def connect() -> None:
    """Is never called here."""


def runtime(**agents: AgentSettings) -> RayRuntime:
    return RayRuntime(Hosting(agents, {}, SearchSettings(), SandboxSettings(), connect=connect))  # type: ignore[arg-type]


async def test_a_pool_takes_as_many_tasks_as_its_actors_work_on():
    made = runtime(pool=AgentSettings(use="a:b", size=2, concurrency=3))
    taken = [made.try_place("pool") for _ in range(7)]
    assert [place is not None for place in taken] == [True] * 6 + [False]
    waiting = asyncio.create_task(made.place("pool"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert taken[0] is not None
    taken[0].release()
    async with asyncio.timeout(10):
        await waiting
    assert made.try_place("pool") is None


async def test_the_urgent_get_the_next_place():
    made = runtime(pool=AgentSettings(use="a:b", concurrency=1))
    held = await made.place("pool")
    order: list[int] = []

    async def work(priority: int) -> None:
        place = await made.place("pool", priority)
        order.append(priority)
        place.release()

    tasks = [asyncio.create_task(work(priority)) for priority in (5, 0, -5)]
    await asyncio.sleep(0)
    held.release()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    assert order == [-5, 0, 5]


async def test_pools_that_many_never_need_start_with_their_first_task(monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []

    async def opens(link: _RayLink) -> None:
        opened.append(link._member)

    monkeypatch.setattr(_RayLink, "open", opens)
    await runtime(**Settings().agents).prewarm()
    assert opened == ["planner-0", "research-0", "analyst-0", "writer-0"]


async def test_an_unknown_agent_is_named():
    made = runtime()
    with pytest.raises(NotFound, match="no agent 'x'"):
        made.try_place("x")
    with pytest.raises(NotFound, match="no agent 'x'"):
        await made.place("x")


async def test_it_travels_without_what_it_holds():
    made = runtime(pool=AgentSettings(use="a:b", concurrency=1))
    assert made.try_place("pool") is not None
    copied = pickle.loads(pickle.dumps(made))
    assert copied.try_place("pool") is not None
    assert made.try_place("pool") is None


def test_members_have_names_of_their_own():
    names = member_names({"a": AgentSettings(size=2), "b": AgentSettings()})
    assert names == ["manta-agent-a-0", "manta-agent-a-1", "manta-agent-b-0"]
