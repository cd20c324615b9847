"""The peer does the work it is measured by."""

import sqlite3
from pathlib import Path

from benchmarks.peers_langgraph import chains_seconds


async def test_langgraph_saves_every_step_of_every_chain(tmp_path: Path):
    file = tmp_path / "checkpoints.db"
    assert await chains_seconds(file, runs=3, steps=2, in_flight=2) > 0
    with sqlite3.connect(file) as connection:
        (threads,) = connection.execute("SELECT count(DISTINCT thread_id) FROM checkpoints").fetchone()
        (saved,) = connection.execute("SELECT count(*) FROM checkpoints").fetchone()
    connection.close()
    assert threads == 3
    # One before the first step, one after each.
    assert saved >= 3 * 3
