"""Waiting for news of a run."""

import asyncio

import pytest

from coordinator.watch import Watchers
from manta.events import Event
from manta.ids import RunId

RUN = RunId("a-run")


async def test_a_watcher_that_leaves_just_as_news_comes_has_left() -> None:
    watchers = Watchers()
    watchers.open(RUN)
    waiting = asyncio.create_task(watchers.wait(RUN, 0, 0, 60))
    await asyncio.sleep(0)
    watchers.publish([Event(RUN, 1, "run_started", 0.0)])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_news_wakes_a_watcher_and_silence_lets_it_go() -> None:
    watchers = Watchers()
    watchers.open(RUN)
    waiting = asyncio.create_task(watchers.wait(RUN, 0, 0, 60))
    await asyncio.sleep(0)
    watchers.publish([Event(RUN, 1, "run_started", 0.0)])
    await waiting
    await watchers.wait(RUN, 1, 0, 0.01)
