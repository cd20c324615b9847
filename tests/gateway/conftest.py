import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents.scripted import ScriptedModel
from manta.config import ModelSettings
from serve_app.backends.sleep import SleepBackend
from tests.gateway.openai_support import SaysChunks, text
from tests.gateway.platform import Held, Local, start


@pytest.fixture
def scripted() -> ScriptedModel:
    """Model `scripted`, whose script a test fills in."""
    return ScriptedModel([])


@pytest.fixture
async def local(tmp_path: Path, scripted: ScriptedModel) -> AsyncIterator[Local]:
    sleeper = SleepBackend("sleeper", ModelSettings(backend="sleep", step_s=(0.001, 0)))
    made, stop = await start(tmp_path, {"sleeper": sleeper, "scripted": scripted})
    yield made
    await stop()


@pytest.fixture
async def said(tmp_path: Path) -> AsyncIterator[tuple[Local, SaysChunks]]:
    """A platform with the model `says`, and the model."""
    model = SaysChunks(*text("one ", "two"))
    made, stop = await start(tmp_path, {"says": model})
    yield made, model
    await stop()


@pytest.fixture
def held(local: Local, monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held(asyncio.Event(), asyncio.Event())
    submit = local.service.submit

    async def submit_late(submission: Any) -> Any:
        held.sent.set()
        await held.go.wait()
        return await submit(submission)

    monkeypatch.setattr(local.service, "submit", submit_late)
    return held
