"""A server as a process of the replica: started, spoken to, started again, and never left behind."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from manta.config import ModelSettings
from manta.errors import ModelLoadError, RemoteModelError, Unavailable
from manta.messages import ChatMessage, ChatRequest
from serve_app.backends.server import ServerBackend
from serve_app.backends.server_restarts import STABLE_S, Restarts
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
DOUBLE = str(Path(__file__).with_name("server_double.py"))


def ask(text: str) -> ChatRequest:
    return ChatRequest((ChatMessage("user", text),))


class Place:
    """A folder in which a double notes what it is and what it has started."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self.go = folder / "go"

    def settings(self, *arguments: str, **launch: Any) -> ModelSettings:
        command = ("{python}", DOUBLE, "--port", "{port}", "--notes", str(self.notes), *arguments)
        return ModelSettings.model_validate(
            {
                "backend": "server",
                "source": "/models/a b",
                "threads": 3,
                "launch": {"command": command, "grace_s": 0.3, "restarts": 2, **launch},
            }
        )

    def backend(self, *arguments: str, **launch: Any) -> ServerBackend:
        settings = self.settings(*arguments, **launch)
        return ServerBackend("m", settings, probe_s=0.02, first_delay_s=0.01)

    def starts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.notes.read_text().splitlines()]

    def alive(self) -> list[int]:
        """Processes that a double is or has started and that still run."""
        pids = [pid for start in self.starts() for pid in start.get("pids", ())]
        return [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for pid in made.alive() if made.notes.exists() else ():
        psutil.Process(pid).kill()


@pytest.fixture
async def running(place: Place) -> AsyncIterator[ServerBackend]:
    made = place.backend()
    await asyncio.to_thread(made.start)
    yield made
    place.go.touch()
    await asyncio.to_thread(made.stop)


async def text_of(backend: ServerBackend, request: ChatRequest) -> str:
    return "".join([chunk.text async for chunk in backend.stream(request)])


async def test_it_answers_and_nothing_is_left_once_it_is_stopped(place: Place):
    backend = place.backend()
    await asyncio.to_thread(backend.start)
    assert (await text_of(backend, ask("hi"))).startswith("well ")
    assert backend.healthy
    assert len(place.alive()) == 2
    await asyncio.to_thread(backend.stop)
    assert place.alive() == [], "also the daemon that heeds no SIGTERM is gone"
    with pytest.raises(Unavailable, match="being stopped"):
        await text_of(backend, ask("hi"))


async def test_arguments_and_environment_are_as_the_settings_say(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    command = ("{python}", DOUBLE, "--port", "{port}", "--notes", str(place.notes))
    backend = place.backend(command=command, env={"OWN": "yes"})
    await asyncio.to_thread(backend.start)
    await asyncio.to_thread(backend.stop)
    seen = place.starts()[0]["environment"]
    assert seen == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "2,3", "OWN": "yes"}


async def test_a_server_that_dies_breaks_its_answer_and_is_started_again(
    place: Place, running: ServerBackend
):
    with pytest.raises(RemoteModelError) as broken:
        await text_of(running, ask("die"))
    assert broken.value.retryable
    await eventually(lambda: running.stats()["starts"] == 2 and running._client, "another server")
    assert (await text_of(running, ask("hi"))).startswith("well ")
    assert running.healthy
    first = place.starts()[0]["pids"]
    assert not [pid for pid in first if _runs(pid)], "the dead server's daemon is gone too"


async def test_a_server_that_is_ill_is_ended_and_started_again(place: Place, running: ServerBackend):
    await text_of(running, ask("be ill"))
    await eventually(lambda: running.stats()["starts"] == 2 and running._client, "another server")
    assert not [pid for pid in place.starts()[0]["pids"] if _runs(pid)]


async def test_a_server_that_keeps_dying_is_given_up(place: Place):
    backend = place.backend("--fail", "2")
    await asyncio.to_thread(backend.start)
    assert backend.healthy
    with pytest.raises(RemoteModelError):
        await text_of(backend, ask("die"))
    await eventually(lambda: not backend.healthy, "giving up")
    assert len(place.starts()) == 3, "two restarts are allowed"
    with pytest.raises(RemoteModelError, match="not running"):
        await text_of(backend, ask("hi"))
    await asyncio.to_thread(backend.stop)


@pytest.mark.parametrize(
    ("arguments", "launch", "told"),
    [
        (("--fail", "1"), {}, ("status 3", "no such file: weights.bin")),
        ((), {"command": ("/no/such/server", "--port", "{port}")}, ("status 127", "cannot start /no/such")),
        (("--never-ready",), {"start_timeout_s": 0.5}, ("not ready after 0.5 s",)),
    ],
)
def test_a_server_that_does_not_start_says_why(
    place: Place, arguments: tuple[str, ...], launch: dict[str, Any], told: tuple[str, ...]
):
    backend = place.backend(*arguments, **launch)
    with pytest.raises(ModelLoadError) as failed:
        backend.start()
    for words in told:
        assert words in str(failed.value)
    assert "models.m.launch" in failed.value.fix
    assert not (place.notes.exists() and place.alive())


async def test_a_stream_ends_before_its_server_does(place: Place):
    backend = place.backend()
    await asyncio.to_thread(backend.start)
    async with aclosing(backend.stream(ask("slow"))) as chunks:
        assert (await anext(chunks)).text == "well "
        stopping = asyncio.create_task(asyncio.to_thread(backend.stop))
        await eventually(backend._stopping.is_set, "the stop")
        with pytest.raises(Unavailable):
            await text_of(backend, ask("hi"))
        assert place.alive()
        place.go.touch()
        rest = [chunk async for chunk in chunks]
    assert rest[-1].finish_reason == "stop"
    await stopping
    assert place.alive() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_dies_with_its_owner(place: Place, number: signal.Signals):
    settings = place.settings().model_dump_json()
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.backends.server_owner", settings],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    with owner.stdout as output:
        assert await asyncio.to_thread(output.readline) == b"ready\n"
        assert len(place.alive()) == 2
        owner.send_signal(number)
        owner.wait(30)
        await eventually(lambda: not place.alive(), "the end of the server and its daemon")


async def test_a_server_dies_with_its_keeper(place: Place, running: ServerBackend):
    assert running._process is not None
    psutil.Process(running._process.pid).kill()
    first = place.starts()[0]["pids"]
    await eventually(lambda: not any(map(_runs, first)), "the end of the server and its daemon")
    await eventually(lambda: running.stats()["starts"] == 2 and running._client, "another server")


def test_delays_grow_until_nothing_more_is_tried():
    restarts = Restarts(allowed=3, first_delay_s=1)
    delays = []
    for _ in range(4):
        restarts = restarts.after_death(lived_s=1)
        delays.append(restarts.delay_s)
    assert delays == [1, 2, 4, None]
    assert restarts.after_death(lived_s=STABLE_S).delay_s == 1, "a long life begins a new row"
    assert Restarts(allowed=0).after_death(0).delay_s is None
