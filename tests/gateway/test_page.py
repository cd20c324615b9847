"""The page at the platform's address, in a real browser where there is one."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from manta import Client
from manta.config import ModelSettings
from serve_app.backends.sleep import SleepBackend
from tests.gateway.serving import Apart, served_apart

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    sleeper = SleepBackend("sleeper", ModelSettings(backend="sleep"))
    folder: Path = tmp_path_factory.mktemp("platform")
    with served_apart(folder, {"sleeper": sleeper}) as made:
        yield made


def seen(platform: Apart, folder: Path, place: str = "") -> str:
    """The page's elements once it has loaded what it shows."""
    assert BROWSER is not None
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}",
        "--virtual-time-budget=4000",
    ]
    command = [BROWSER, *flags, "--dump-dom", f"{platform.url}/{place}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="there is no browser: chromium or google-chrome")
@pytest.mark.timeout(400)
def test_the_page_shows_runs_questions_and_feedback(platform: Apart, tmp_path: Path):
    with Client(platform.url) as client:
        done = client.run("echo", {"question": "why <b>tides</b>?"}).run
        client.rate(done.id, 4, "good <i>one</i>")
        asked = client.submit("ask", {"text": "Dear <u>all</u>"})
        client.wait(asked.id)
        listed = seen(platform, tmp_path)
        assert "● coordinator" in listed
        assert '<td class="waiting">waiting</td>' in listed
        assert "why &lt;b&gt;tides&lt;/b&gt;?" in listed
        waiting = seen(platform, tmp_path, f"#{asked.id}")
        assert "Send it?</h2>" in waiting
        assert '<textarea rows="8">Dear &lt;u&gt;all&lt;/u&gt;</textarea>' in waiting
        assert "<button>Approve</button><button>Reject</button>" in waiting
        over = seen(platform, tmp_path, f"#{done.id}")
        assert "★★★★ good &lt;i&gt;one&lt;/i&gt;" in over
        assert "<button>★★★★★</button>" in over


@pytest.mark.skipif(BROWSER is None, reason="there is no browser: chromium or google-chrome")
@pytest.mark.timeout(400)
def test_the_page_asks_for_a_key_where_one_is_needed(tmp_path: Path):
    sleeper = SleepBackend("sleeper", ModelSettings(backend="sleep"))
    (tmp_path / "platform").mkdir()
    with served_apart(tmp_path / "platform", {"sleeper": sleeper}, keys_always=True) as guarded:
        page = seen(guarded, tmp_path / "browser")
    assert "This platform asks for an API key." in page
    assert '<input id="key" type="password"' in page
    assert "● coordinator" in page
