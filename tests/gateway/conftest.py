from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.scripted import ScriptedModel
from manta.config import ModelSettings
from serve_app.backends.sleep import SleepBackend
from tests.gateway.openai_support import SaysChunks, text
from tests.gateway.platform import Local, start


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
