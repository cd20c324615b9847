"""LangGraph with its SQLite checkpointer, in the way its documentation shows."""

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph


class ChainState(TypedDict):
    n: int


async def _node(state: ChainState) -> dict[str, int]:
    return {"n": state["n"] + 1}


def _chain(steps: int) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(ChainState)
    names = [f"s{index}" for index in range(steps)]
    for name in names:
        graph.add_node(name, _node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph


async def chains_seconds(file: Path, runs: int, steps: int, in_flight: int) -> float:
    """Seconds for `runs` chains in this process, every step saved to a new SQLite file before the next begins."""
    async with AsyncSqliteSaver.from_conn_string(str(file)) as saver:
        await saver.setup()
        await _check_durable(saver)
        chain = _chain(steps).compile(checkpointer=saver)
        free = asyncio.Semaphore(in_flight)

        async def run() -> None:
            async with free:
                config: Any = {"configurable": {"thread_id": str(uuid.uuid4())}}
                end = await chain.ainvoke({"n": 0}, config, durability="sync")
                if end["n"] != steps:
                    raise RuntimeError(f"a chain ended at {end}")

        began = time.perf_counter()
        await asyncio.gather(*(run() for _ in range(runs)))
        return time.perf_counter() - began


async def _check_durable(saver: AsyncSqliteSaver) -> None:
    """As durable as ours: WAL, flushed at every commit."""
    found = []
    for pragma in ("journal_mode", "synchronous"):
        async with saver.conn.execute(f"PRAGMA {pragma}") as cursor:
            row = await cursor.fetchone()
            found.append(row[0] if row else None)
    if found != ["wal", 2]:
        raise RuntimeError(f"the peer's database is set to {found}, not to WAL with synchronous=FULL")
