"""What code in the sandbox must not be able to do, each tried for real against something that is there."""

import asyncio
import os
import socket
import sys
import textwrap
from pathlib import Path

import pytest

from tests.tools.sandbox_probe import NAMES, need
from tools.python_sandbox import PythonSandbox, SandboxLimits, SandboxResult


@pytest.fixture(params=NAMES)
def sandbox(request):
    need(request.param)
    return PythonSandbox(request.param, SandboxLimits(wall_s=20))


async def attempt(sandbox: PythonSandbox, statements: str, out: Path) -> SandboxResult:
    """Run statements that must raise OSError; the code reports 'refused' when they do, 'DONE' when not."""
    body = textwrap.indent(textwrap.dedent(statements).strip(), "    ")
    code = f"import os, socket\ntry:\n{body}\nexcept OSError as error:\n    print('refused', error.errno)"
    code += "\nelse:\n    print('DONE')"
    return await sandbox.run(code, output_dir=out)


def refused(result: SandboxResult) -> bool:
    return result.ok and result.stdout.startswith("refused")


@pytest.mark.parametrize(
    "path",
    ["/etc/shadow", "/etc/passwd", "/etc/hostname", "/proc/1/environ", "/proc/self/environ", "/proc/mounts"],
)
async def test_system_files_cannot_be_read(sandbox, tmp_path, path):
    assert refused(await attempt(sandbox, f"open({path!r}).read()", tmp_path))


@pytest.mark.parametrize(
    "path",
    [Path.home(), Path(__file__).parent, Path("/etc"), Path("/proc"), Path("/dev/shm"), Path("/tmp")],
    ids=str,
)
async def test_folders_outside_cannot_be_listed(sandbox, tmp_path, path):
    assert refused(await attempt(sandbox, f"os.listdir({str(path)!r})", tmp_path))


async def test_a_secret_beside_the_work_folder_cannot_be_read(sandbox, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("do not tell")
    tmp_path.chmod(0o755)
    secret.chmod(0o644)
    assert refused(await attempt(sandbox, f"print(open({str(secret)!r}).read())", tmp_path / "out"))
    assert refused(
        await attempt(
            sandbox, f"os.symlink({str(secret)!r}, 'way')\nprint(open('way').read())", tmp_path / "out"
        )
    )
    assert refused(await attempt(sandbox, f"os.link({str(secret)!r}, 'way')", tmp_path / "out"))


async def test_the_hosts_environment_cannot_be_read(sandbox, tmp_path):
    assert refused(await attempt(sandbox, f"open('/proc/{os.getpid()}/environ').read()", tmp_path))


async def test_the_environment_holds_nothing_of_the_hosts(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("MANTA_TEST_SECRET", "do not tell")
    code = """
import ctypes, os
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print(dict(os.environ))
print(getenv(b'MANTA_TEST_SECRET'))
"""
    result = await sandbox.run(code, output_dir=tmp_path)
    assert result.ok
    assert "do not tell" not in result.stdout
    assert result.stdout.endswith("None\n")


async def test_nothing_outside_can_be_written(sandbox, tmp_path):
    tmp_path.chmod(0o777)
    for target in (
        tmp_path / "new",
        Path("/tmp/manta-should-not-exist"),
        Path(sys.prefix) / "manta-should-not-exist",
    ):
        assert refused(await attempt(sandbox, f"open({str(target)!r}, 'w').write('x')", tmp_path / "out"))
        assert not target.exists()


async def test_files_outside_keep_content_and_mode(sandbox, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("content")
    tmp_path.chmod(0o777)
    victim.chmod(0o666)
    for act in (
        f"os.truncate({str(victim)!r}, 0)",
        f"os.remove({str(victim)!r})",
        f"os.rename({str(victim)!r}, 'x')",
    ):
        assert refused(await attempt(sandbox, act, tmp_path / "out"))
    await attempt(sandbox, f"os.chmod({str(victim)!r}, 0)", tmp_path / "out")
    await attempt(sandbox, f"os.utime({str(victim)!r}, (1, 1))", tmp_path / "out")
    assert victim.read_text() == "content"
    assert victim.stat().st_mode & 0o777 == 0o666
    assert victim.stat().st_mtime > 1


@pytest.fixture
def listeners(tmp_path):
    """A TCP, a UDP, a named and an abstract Unix socket; yields (family, kind, address) and who was heard."""
    named = str(tmp_path / "listener.sock")
    abstract = f"\0manta-{os.getpid()}"
    kinds = [
        ("AF_INET", "SOCK_STREAM", ("127.0.0.1", 0)),
        ("AF_INET", "SOCK_DGRAM", ("127.0.0.1", 0)),
        ("AF_UNIX", "SOCK_STREAM", named),
        ("AF_UNIX", "SOCK_DGRAM", abstract),
    ]
    sockets = []
    for family, kind, address in kinds:
        listener = socket.socket(getattr(socket, family), getattr(socket, kind))
        listener.bind(address)
        if kind == "SOCK_STREAM":
            listener.listen()
        listener.setblocking(False)
        sockets.append(listener)
    tmp_path.chmod(0o755)
    Path(named).chmod(0o777)
    yield [(family, kind, listener) for (family, kind, _), listener in zip(kinds, sockets, strict=True)]
    for listener in sockets:
        listener.close()


async def test_no_socket_reaches_a_listener(sandbox, tmp_path, listeners):
    for family, kind, listener in listeners:
        address = listener.getsockname()
        address = address.decode() if isinstance(address, bytes) else address
        act = f"s = socket.socket(socket.{family}, socket.{kind}); s.connect({address!r}); s.send(b'hello')"
        assert refused(await attempt(sandbox, act, tmp_path / "out")), (family, kind)
        with pytest.raises(BlockingIOError):
            listener.accept() if kind == "SOCK_STREAM" else listener.recv(1)


async def test_a_socket_pair_cannot_be_turned_on_a_stranger(sandbox, tmp_path, listeners):
    address = listeners[3][2].getsockname().decode()
    act = f"a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b'hello', {address!r})"
    assert refused(await attempt(sandbox, act, tmp_path / "out"))
    act = f"a, b = socket.socketpair(); a.connect({address!r})"
    assert refused(await attempt(sandbox, act, tmp_path / "out"))


async def test_asyncio_works_without_sockets_to_the_outside(sandbox, tmp_path):
    result = await sandbox.run(
        "import asyncio\nasyncio.run(asyncio.sleep(0))\nprint('ran')", output_dir=tmp_path
    )
    assert (result.stdout, result.ok) == ("ran\n", True)


@pytest.mark.parametrize("family", ["AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"])
async def test_other_families_are_refused_too(sandbox, tmp_path, family):
    assert refused(await attempt(sandbox, f"socket.socket(socket.{family}, socket.SOCK_RAW)", tmp_path))


async def test_the_host_cannot_be_signalled(sandbox, tmp_path):
    assert refused(await attempt(sandbox, f"os.kill({os.getpid()}, 0)", tmp_path))


async def test_no_program_can_be_started(sandbox, tmp_path):
    assert refused(await attempt(sandbox, f"os.execv({sys.executable!r}, ['python'])", tmp_path))
    assert refused(
        await attempt(sandbox, "import subprocess; subprocess.run(['/bin/sh', '-c', 'true'])", tmp_path)
    )


KERNEL_CALLS = {
    "unshare": ("unshare", "0x10000000"),
    "ptrace": ("ptrace", "16, 1, 0, 0"),
    "mount": ("mount", "b'none', b'/', b'tmpfs', 0, b''"),
    "io_uring_setup": ("syscall", "425, 8, b'0' * 200"),
    "clone3": ("syscall", "435, b'0' * 88, 88"),
    "memfd_create": ("memfd_create", "b'x', 0"),
    "shmget": ("shmget", "0, 4096, 0o1777"),
    "setuid": ("setuid", "0"),
    "process_vm_readv": ("process_vm_readv", "1, None, 0, None, 0, 0"),
    "personality": ("personality", "0x0040000"),
    "fcntl F_SETOWN": ("fcntl", f"0, 8, {os.getpid()}"),
    "prlimit of another": ("prlimit", f"{os.getpid()}, 7, None, None"),
}  # fmt: skip


@pytest.mark.parametrize("call", KERNEL_CALLS)
async def test_kernel_calls_are_refused(sandbox, tmp_path, call):
    name, arguments = KERNEL_CALLS[call]
    code = f"""
        import ctypes
        if ctypes.CDLL(None, use_errno=True).{name}({arguments}) == -1:
            raise OSError(ctypes.get_errno(), 'refused')
    """
    assert refused(await attempt(sandbox, code, tmp_path))


async def test_code_does_not_run_as_root_and_has_no_capability(sandbox, tmp_path):
    code = "import os\nprint(os.getuid() != 0, os.getgid() != 0, os.getgroups())"
    if os.getuid() != 0:
        pytest.skip("only root gives a user up")
    result = await sandbox.run(code, output_dir=tmp_path)
    assert result.stdout == "True True []\n"
    capable = "import ctypes\nprint([n for n in range(41) if ctypes.CDLL(None).prctl(47, 2, n, 0, 0) > 0])"
    assert (await sandbox.run(capable, output_dir=tmp_path)).stdout == "[]\n"


async def test_two_runs_do_not_see_each_other(sandbox, tmp_path):
    spy = (
        "import os, time\nopen('mine', 'w').write('x'); time.sleep(0.3)\nprint(os.getcwd(), os.listdir('.'))"
    )
    first, second = await asyncio.gather(*(sandbox.run(spy, output_dir=tmp_path / str(n)) for n in range(2)))
    assert first.stdout != second.stdout
    assert first.stdout.endswith("['mine']\n")
    assert second.stdout.endswith("['mine']\n")
