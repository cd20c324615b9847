"""What the sandbox gives back: output, files, limits by name; and that nothing of a run is left."""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from manta.errors import SandboxUnavailable, ToolError
from tests.tools.sandbox_probe import NAMES, assert_nobody_left, members, need
from tools.python_sandbox import PythonSandbox, SandboxLimits, probe


@pytest.fixture(params=NAMES)
def name(request):
    need(request.param)
    return request.param


@pytest.fixture
def sandbox(name):
    return PythonSandbox(name, SandboxLimits(wall_s=30))


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path_factory, monkeypatch):
    """So that what is left in it was left by this test; and, below pytest's folder, closed to other users."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("runs")))


def run_folders() -> list[str]:
    return os.listdir(tempfile.gettempdir())


async def test_output_and_exit_code(sandbox, name, tmp_path):
    result = await sandbox.run(
        "import sys\nprint('größe')\nprint('err', file=sys.stderr)\nsys.exit(3)", output_dir=tmp_path
    )
    assert (result.stdout, result.stderr, result.exit_code) == ("größe\n", "err\n", 3)
    assert (result.ok, result.limit, result.backend) == (False, None, name)


async def test_a_chart_is_drawn_and_handed_over(sandbox, tmp_path):
    pytest.importorskip("matplotlib")
    code = "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2])\nplt.savefig('plots/chart.png')"
    result = await sandbox.run("import os\nos.mkdir('plots')\n" + code, output_dir=tmp_path)
    assert result.ok, result.stderr
    assert [(file.name, file.media_type) for file in result.files] == [("plots/chart.png", "image/png")]
    assert result.files[0].path.read_bytes().startswith(b"\x89PNG")
    assert result.files[0].size == result.files[0].path.stat().st_size


async def test_an_input_is_read_and_is_no_result(sandbox, tmp_path):
    data = tmp_path / "numbers.csv"
    data.write_text("n\n1\n2\n39\n")
    code = "import csv\nprint(sum(int(row['n']) for row in csv.DictReader(open('data.csv'))))\n"
    code += "open('sum.txt', 'w').write('42')"
    result = await sandbox.run(code, inputs={"data.csv": data}, output_dir=tmp_path / "out")
    assert result.stdout == "42\n"
    assert [file.name for file in result.files] == ["sum.txt"]
    assert data.read_text() == "n\n1\n2\n39\n"


@pytest.mark.parametrize("bad", ["../x", "a/b", "", "..", "x" * 300])
async def test_an_input_name_is_a_plain_file_name(sandbox, tmp_path, bad):
    with pytest.raises(ToolError) as caught:
        await sandbox.run("", inputs={bad: tmp_path / "x"}, output_dir=tmp_path)
    assert caught.value.code == "bad_input"


async def test_an_input_that_is_missing_is_named(sandbox, tmp_path):
    with pytest.raises(ToolError, match=r"data\.csv"):
        await sandbox.run("", inputs={"data.csv": tmp_path / "none"}, output_dir=tmp_path)
    assert run_folders() == []


@pytest.mark.parametrize("code", ["x = (", "raise ValueError('boom')", "import not_there"])
async def test_a_mistake_is_shown_without_our_frames(sandbox, tmp_path, code):
    result = await sandbox.run(code, output_dir=tmp_path)
    assert not result.ok
    assert result.exit_code == 1
    assert "Error" in result.stderr
    assert "inside" not in result.stderr


LIMITS = {
    "fork bomb": ("import os\nwhile True:\n    os.fork()", "processes"),
    "stubborn fork bomb": (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "processes",
    ),
    "threads": (
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(60,)).start()",
        "processes",
    ),
    "memory": ("held = []\nwhile True:\n    held.append(bytearray(10_000_000))", "memory"),
    "memory at once": ("x = bytearray(10**11)", "memory"),
    "memory of many": (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0: break\n"
        "x = bytearray(90_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1\ntime.sleep(60)",
        "memory",
    ),
    "loop": ("while True:\n    pass", "cpu"),
    "loop that ignores its signal": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
        "cpu",
    ),
    "sleep": ("import time\ntime.sleep(1000)", "wall"),
    "output": ("for _ in range(200):\n    print('x' * 1_000_000)", "output"),
    "error output": ("import sys\nfor _ in range(200):\n    sys.stderr.write('x' * 1_000_000)", "output"),
    "one file": ("f = open('big', 'wb')\nfor _ in range(1000):\n    f.write(bytes(1_000_000))", "file"),
    "many files": (
        "import time\nfor n in range(40):\n    open(str(n), 'wb').write(bytes(1_000_000))\ntime.sleep(60)",
        "disk",
    ),
    "many names": (
        "import time\nfor n in range(9000):\n    open(str(n), 'wb').close()\ntime.sleep(60)",
        "disk",
    ),
    "depth": (
        "import os, time\nfor n in range(3000):\n    os.mkdir('d'); os.chdir('d')\ntime.sleep(60)",
        "disk",
    ),
}


@pytest.mark.parametrize("case", LIMITS)
async def test_each_limit_ends_the_run_by_its_name(name, tmp_path, case):
    code, limit = LIMITS[case]
    wall = 2 if limit == "wall" else 60
    cpu = 2 if limit == "cpu" else 60
    memory = 300 if limit == "memory" else 1024
    sandbox = PythonSandbox(
        name, SandboxLimits(wall_s=wall, cpu_s=cpu, memory_mb=memory, file_mb=8, output_kb=64)
    )
    others = members()
    result = await sandbox.run(code, output_dir=tmp_path)
    assert (result.ok, result.limit) == (False, limit), result.stderr[-500:]
    assert len(result.stdout) + len(result.stderr) <= 64 << 10
    assert all(file.size <= 8 << 20 for file in result.files)
    assert_nobody_left(others)
    assert run_folders() == []


async def test_background_processes_end_with_the_code(sandbox, tmp_path):
    others = members()
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
print('done')
"""
    result = await sandbox.run(code, output_dir=tmp_path)
    assert "done" in result.stdout
    assert_nobody_left(others)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_run_leaves_nothing(sandbox, tmp_path, times):
    others = members()
    code = "import os, time\nos.fork(); os.setsid(); os.fork()\ntime.sleep(1000)"
    task = asyncio.ensure_future(sandbox.run(code, output_dir=tmp_path))
    async with asyncio.timeout(20):
        while len(members() - others) < 5:
            await asyncio.sleep(0.01)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_nobody_left(others)
    assert run_folders() == []


async def test_a_host_that_is_killed_takes_the_run_along(name, tmp_path):
    others = members()
    host = f"""
import asyncio, pathlib
from tools.python_sandbox import PythonSandbox
code = "import os, time; os.setsid(); os.fork(); time.sleep(1000)"
asyncio.run(PythonSandbox({name!r}).run(code, output_dir=pathlib.Path({str(tmp_path)!r})))
"""
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", host], cwd=root, env={"TMPDIR": tempfile.gettempdir()})
    async with asyncio.timeout(20):
        while len(members() - others) < 3:
            await asyncio.sleep(0.01)
    process.kill()
    process.wait()
    assert_nobody_left(others)


async def test_links_are_not_followed_and_special_files_not_taken(sandbox, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("do not tell")
    code = f"""
import os
os.symlink({str(secret)!r}, 'link.txt')
os.symlink({str(tmp_path)!r}, 'folder')
os.mkfifo('pipe')
open('a', 'w').write('x')
os.link('a', 'b')
open('good.txt', 'w').write('good')
"""
    result = await sandbox.run(code, output_dir=tmp_path / "out")
    assert result.ok, result.stderr
    assert [file.name for file in result.files] == ["good.txt"]
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["good.txt"]


def test_the_report_says_why_and_what_to_do():
    report = probe()
    assert [status.name for status in report.backends] == list(NAMES)
    for status in report.backends:
        assert status.works or (status.reason and status.fix)


async def test_an_unknown_backend_is_refused():
    with pytest.raises(SandboxUnavailable, match="bubblewrap or landlock"):
        PythonSandbox("none")


async def test_without_a_name_the_best_backend_is_taken(tmp_path):
    best = probe().best
    if best is None:
        with pytest.raises(SandboxUnavailable):
            await PythonSandbox().run("print(1)", output_dir=tmp_path)
    else:
        assert (await PythonSandbox().run("print(1)", output_dir=tmp_path)).backend == best
