"""What of the Ray runtime needs no Ray: how many tasks it lets at a pool at once."""

import asyncio

import pytest

from agents.actor import Hosting
from coordinator.ray_runtime import RayRuntime, member_names
from manta.config import AgentSettings, SandboxSettings, SearchSettings
from manta.errors import NotFound


def runtime(**agents: AgentSettings) -> RayRuntime:
    return RayRuntime(Hosting(agents, {}, SearchSettings(), SandboxSettings(), connect=lambda: None))  # type: ignore[arg-type, return-value]


async def test_a_pool_takes_as_many_tasks_as_its_actors_work_on():
    made = runtime(pool=AgentSettings(use="a:b", size=2, concurrency=3))
    inside = most = 0
    full, leave = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        nonlocal inside, most
        async with made.slot("pool"):
            inside += 1
            most = max(most, inside)
            if inside == 6:
                full.set()
            await leave.wait()
            inside -= 1

    tasks = [asyncio.create_task(work()) for _ in range(20)]
    async with asyncio.timeout(10):
        await full.wait()
        leave.set()
        await asyncio.gather(*tasks)
    assert most == 6


async def test_an_unknown_agent_is_named():
    with pytest.raises(NotFound, match="no agent 'x'"):
        async with runtime().slot("x"):
            pass


def test_members_have_names_of_their_own():
    names = member_names({"a": AgentSettings(size=2), "b": AgentSettings()})
    assert names == ["manta-agent-a-0", "manta-agent-a-1", "manta-agent-b-0"]
