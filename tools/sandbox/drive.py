"""Start a supervisor, feed it, read its output within the cap, and see that it ends, whatever happens to us."""

import asyncio
import json
import os
from dataclasses import dataclass

from manta.errors import SandboxUnavailable, ToolError
from tools.sandbox.backends import Backend
from tools.sandbox.inside.spec import Spec
from tools.sandbox.patience import to_the_end

_GRACE_S = 10
_PIECE = 1 << 16
# All there is of an environment. Each thread would reserve 64 MB of the address space for its heap.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """`limit` and `exit_code` as in SandboxResult."""

    limit: str | None
    exit_code: int | None
    stdout: bytes
    stderr: bytes


class _Cap:
    """The bytes both streams may still bring. Reading goes on after it: a full pipe would hold the end up."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.reached = asyncio.Event()

    async def read(self, stream: asyncio.StreamReader) -> bytes:
        kept: list[bytes] = []
        while piece := await stream.read(_PIECE):
            kept.append(piece[: self.left])
            if len(piece) > self.left:
                self.reached.set()
            self.left -= len(kept[-1])
        return b"".join(kept)


async def drive(backend: Backend, spec: Spec, output_bytes: int) -> Outcome:
    """Run to the end. When this call is cancelled the whole tree is killed before the cancellation goes on.

    The process is started from the event loop's own thread: bubblewrap's --die-with-parent follows the
    thread, not the process, and the loop's thread lives at least as long as this call.
    """
    reader, writer = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *backend.command(spec, writer),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(writer,),
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        os.close(reader)
        raise SandboxUnavailable(
            f"{backend.name} cannot be started: {error}", fix="see manta doctor"
        ) from error
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    try:
        output = await _converse(process, spec, _Cap(output_bytes))
        return _outcome(backend, reader, *output)
    finally:
        await to_the_end(_end(process, reader))


async def _converse(process: asyncio.subprocess.Process, spec: Spec, cap: _Cap) -> tuple[bytes, bytes, bool]:
    assert process.stdin
    assert process.stdout
    assert process.stderr
    streams = asyncio.gather(cap.read(process.stdout), cap.read(process.stderr))
    too_much = asyncio.ensure_future(cap.reached.wait())
    try:
        process.stdin.write(spec.frame())
        # The supervisor keeps the deadline; this one is for a supervisor that does not answer.
        latest = spec.wall_s + _GRACE_S
        await asyncio.wait((streams, too_much), timeout=latest, return_when=asyncio.FIRST_COMPLETED)
        if not streams.done():
            process.stdin.close()
        async with asyncio.timeout(_GRACE_S):
            stdout, stderr = await streams
        return stdout, stderr, cap.reached.is_set()
    except TimeoutError as error:
        raise ToolError("the sandbox did not end in time", fix="try again", code="sandbox_stuck") from error
    finally:
        for waiting in (streams, too_much):
            waiting.cancel()
        await asyncio.gather(streams, too_much, return_exceptions=True)


def _outcome(backend: Backend, reader: int, stdout: bytes, stderr: bytes, too_much: bool) -> Outcome:
    os.set_blocking(reader, False)
    try:
        text = os.read(reader, 4096)
    except BlockingIOError:
        text = b""
    if not text:
        reason = stderr.decode(errors="replace").strip().splitlines()
        message = f"{backend.name} ended without a result: {reason[-1] if reason else 'no message'}"
        raise SandboxUnavailable(message, fix="run manta doctor to see which backends work here")
    said = json.loads(text)
    if said["fence"] is not None:
        fix = "run Python from a folder that other users may enter, or run Manta as an ordinary user"
        raise SandboxUnavailable(f"{backend.name} could not close its fence: {said['fence']}", fix=fix)
    limit = "output" if too_much else said["limit"]
    return Outcome(limit, None if too_much else said["exit_code"], stdout, stderr)


async def _end(process: asyncio.subprocess.Process, reader: int) -> None:
    """Closing its input tells the supervisor to kill the tree; if it does not end, neither may it live."""
    try:
        if process.stdin:
            process.stdin.close()
        try:
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    finally:
        os.close(reader)
