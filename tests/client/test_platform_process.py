"""Starting, finding and stopping the supervisor, with a small real process in its place."""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from manta import platform_process
from manta.config import Settings, load_settings
from manta.errors import PlatformError
from manta.platform_process import Progress, running, start, stop, supervisor_command

SUPERVISOR = Path(__file__).with_name("supervisor.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    home = tmp_path / "home"
    yield load_settings(None, {}, {"home": str(home), "server.port": free_port()})
    stop(home, 0)
    assert not marked(home)


def command(home: Path, behaviour: str) -> list[str]:
    return [sys.executable, str(SUPERVISOR), str(home), behaviour]


def begin(settings: Settings, behaviour: str = "works", **options) -> platform_process.PlatformInfo:
    return start(settings, command=command(settings.home, behaviour), timeout_s=60, **options)


def marked(home: Path) -> list[psutil.Process]:
    """The living processes that a platform of this home left."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(platform_process.MARK) == str(home) and process.status() != "zombie":
                found.append(process)
    return found


def kill(process: psutil.Process) -> None:
    process.kill()
    psutil.wait_procs([process], timeout=30)


def test_start_tells_its_progress_and_finds_the_platform(settings: Settings):
    seen: list[Progress] = []
    info = begin(settings, on_progress=seen.append)
    assert [(p.component, p.state) for p in seen] == [("ray", "ready"), ("platform", "ready")]
    assert seen[0].detail == "2 CPUs"
    assert running(settings.home) == info
    assert len(marked(settings.home)) == 3


def test_stop_leaves_no_process_and_no_file(settings: Settings):
    begin(settings)
    assert stop(settings.home, 30)
    assert marked(settings.home) == []
    assert running(settings.home) is None
    assert not (settings.home / "platform.json").exists()
    # The stand-in writes this when it is asked to end; by force it could not.
    assert "stopped" in (settings.home / "startup.jsonl").read_text()
    assert not stop(settings.home, 30)


def test_what_does_not_listen_is_ended_by_force(settings: Settings):
    begin(settings, "stubborn")
    assert stop(settings.home, 0.3)
    assert marked(settings.home) == []


def test_a_second_start_attaches(settings: Settings):
    first = begin(settings)
    assert begin(settings, "dies") == first


def test_two_starts_at_once_make_one_platform(settings: Settings):
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(begin(settings).pid)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert len(set(found)) == 1


def test_a_supervisor_that_ends_is_an_error_with_its_last_word(settings: Settings):
    with pytest.raises(PlatformError, match="no such thing as a free lunch") as caught:
        begin(settings, "dies")
    assert caught.value.code == "start_failed"
    assert "supervisor.log" in caught.value.fix
    assert not (settings.home / "starting.json").exists()


def test_a_component_that_fails_is_named(settings: Settings):
    with pytest.raises(PlatformError, match="models: a broken file") as caught:
        begin(settings, "fails")
    assert caught.value.code == "model_load_error"


def test_a_start_that_takes_too_long_is_undone(settings: Settings):
    with pytest.raises(PlatformError, match="ray ready") as caught:
        start(settings, command=command(settings.home, "hangs"), timeout_s=10)
    assert caught.value.code == "start_timeout"
    assert marked(settings.home) == []


def test_a_start_that_was_left_half_way_is_taken_up(settings: Settings):
    settings.home.mkdir()
    (settings.home / "logs").mkdir()
    process = platform_process._spawn(settings.home, command(settings.home, "works"))
    assert begin(settings, "dies").pid == process.pid


def test_a_start_that_was_left_half_way_is_stopped(settings: Settings):
    (settings.home / "logs").mkdir(parents=True)
    platform_process._spawn(settings.home, command(settings.home, "hangs"))
    assert stop(settings.home, 0.2)
    assert marked(settings.home) == []


def test_a_dead_supervisor_is_no_platform_and_a_start_clears_its_remains(settings: Settings):
    first = begin(settings)
    kill(psutil.Process(first.pid))
    assert running(settings.home) is None
    left = marked(settings.home)
    assert left
    second = begin(settings)
    assert second.pid != first.pid
    assert not any(process.is_running() and process.status() != "zombie" for process in left)


def test_stop_clears_the_remains_of_a_dead_supervisor(settings: Settings):
    kill(psutil.Process(begin(settings).pid))
    assert stop(settings.home, 30)
    assert marked(settings.home) == []
    assert not (settings.home / "platform.json").exists()


def test_another_process_with_the_same_number_is_no_platform(settings: Settings):
    settings.home.mkdir()
    me = {"pid": os.getpid(), "created": psutil.Process().create_time() - 100, "address": "http://x"}
    (settings.home / "platform.json").write_text(json.dumps(me))
    assert running(settings.home) is None
    assert not stop(settings.home, 0.1)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "x"}'])
def test_a_state_file_that_is_none(settings: Settings, text: str):
    settings.home.mkdir()
    (settings.home / "platform.json").write_text(text)
    assert running(settings.home) is None


def test_a_taken_port_is_named_with_its_holder(settings: Settings):
    with socket.socket() as holder:
        holder.bind((settings.server.host, settings.server.port))
        holder.listen()
        with pytest.raises(PlatformError, match=f"process {os.getpid()}") as caught:
            begin(settings)
    assert (caught.value.code, "--port" in caught.value.fix) == ("port_in_use", True)
    assert marked(settings.home) == []


def test_a_home_that_cannot_be(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match="home_unusable"):
        start(load_settings(None, {}, {"home": str(tmp_path / "file" / "home")}), command=["false"])


def test_the_command_hands_the_settings_on(tmp_path: Path):
    settings = load_settings(
        None, {}, {"home": str(tmp_path), "server.port": 8123, "ray.address": "head:6379"}
    )
    line = supervisor_command(settings, tmp_path / "manta.yaml")
    assert line[:4] == [sys.executable, "-m", "serve_app", "up"]
    assert line[4:] == [
        *("--home", str(tmp_path), "--port", "8123"),
        *("--config", str(tmp_path / "manta.yaml"), "--address", "head:6379"),
    ]
