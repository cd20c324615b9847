"""Batches as Ray jobs, through Ray's Job Submission SDK. Needs the extra `jobs`.

The job is `python -m manta.batch` on the cluster's head: a client of the platform, which outlives whoever
submitted it. Ray is imported inside the functions only.
"""

import asyncio
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from manta.batch import BatchProgress, parse_progress
from manta.config import client_key, load_settings
from manta.errors import InvalidInput, NotFound, PlatformError
from manta.platform_process import PlatformInfo, running

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_LAST_LINES = 3
_AGENT_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """A submitted batch, and where it was submitted."""

    id: str
    dashboard: str
    token_path: str = ""


def submit_batch(
    tasks: str | Path,
    graph: str,
    out: str | Path,
    *,
    concurrency: int = 4,
    platform: PlatformInfo | None = None,
) -> Job:
    """Submit a batch as a Ray job.

    Args:
        tasks: JSON lines, `{"question": ...}` or `{"input": {...}}`, each with an optional `"id"`.
        out: the results, one line per task; tasks that succeeded there already are not repeated.
        concurrency: runs in flight at once.
        platform: None is the one that runs on this machine.

    Raises:
        PlatformError: no platform, no dashboard, or Ray's job SDK is not installed.
    """
    platform = platform or _local_platform()
    tasks, out = Path(tasks).resolve(), Path(out).resolve()
    if concurrency < 1:
        raise InvalidInput(f"concurrency must be at least 1, not {concurrency}")
    job = Job(f"manta-batch-{uuid.uuid4().hex[:12]}", platform.dashboard, platform.token_path)
    entrypoint = _entrypoint(platform, tasks, graph, out, concurrency)
    metadata = {"graph": graph, "tasks": str(tasks), "out": str(out)}
    with _refusals(job):
        client = _sdk(job)
        _while_no_agent(
            lambda: client.submit_job(
                entrypoint=entrypoint, submission_id=job.id, metadata=metadata, runtime_env=_environment()
            )
        )
    return job


def _while_no_agent(submit: Callable[[], Any]) -> None:
    """Submit, and again while Ray's own agent for jobs is still coming up; the id makes it one job."""
    deadline = time.monotonic() + _AGENT_PATIENCE_S
    while True:
        try:
            submit()
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def follow(job: Job) -> Iterator[BatchProgress]:
    """How far a batch is, line by line, until it ends.

    Raises:
        PlatformError: the job ended without having gone through its tasks, or its log cannot be read.
    """
    with _refusals(job):
        client = _sdk(job)
    last: BatchProgress | None = None
    words: list[str] = []
    for line in _log_lines(client, job.id):
        progress = parse_progress(line)
        if progress is not None:
            last = progress
            yield progress
        elif line.strip():
            words = [*words, line.strip()][-_LAST_LINES:]
    if last is None or last.done < last.total:
        with _refusals(job):
            cause = words[-1] if words else str(client.get_job_status(job.id).value).lower()
        raise PlatformError(
            f"the batch job {job.id} ended early: {cause}",
            fix="run the same command again: finished tasks are kept",
            code="batch_failed",
        )


def stop(job: Job) -> None:
    """Stop a batch. Runs it has submitted go on; cancel them with `manta cancel`."""
    with _refusals(job):
        _sdk(job).stop_job(job.id)


def _local_platform() -> PlatformInfo:
    home = load_settings().home
    found = running(home)
    if found is None:
        raise NotFound(f"no platform runs in {home}", fix="manta up")
    return found


def _entrypoint(platform: PlatformInfo, tasks: Path, graph: str, out: Path, concurrency: int) -> str:
    # On this machine the very same Python and code; elsewhere what the head has installed.
    here = urlsplit(platform.dashboard).hostname in _LOOPBACK
    python = sys.executable if here else "python"
    options = {"--graph": graph, "--out": out, "--url": platform.address, "--concurrency": concurrency}
    program = [python, "-m", "manta.batch", str(tasks)]
    program += [word for name, value in options.items() for word in (name, str(value))]
    prefix = f"cd {shlex.quote(str(Path(__file__).resolve().parents[1]))} && exec " if here else ""
    return prefix + shlex.join(program)


def _environment() -> dict[str, Any]:
    """The job is a client like this one, with its key. Whoever can look at Ray's jobs can run code there anyway."""
    key = client_key()
    return {"env_vars": {"MANTA_API_KEY": key}} if key else {}


def _sdk(job: Job) -> Any:
    if not job.dashboard:
        raise PlatformError(
            "the platform has no Ray dashboard, which takes jobs",
            fix="set ray.dashboard; manta down; manta up",
        )
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise PlatformError(
            "Ray's job SDK is not installed", fix="pip install 'manta[jobs]'", code="jobs_extra_missing"
        ) from None
    return JobSubmissionClient(job.dashboard, headers=_headers(job.token_path))


@contextmanager
def _refusals(job: Job) -> Iterator[None]:
    """What Ray's client raises, as one of our errors."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = " ".join(str(error).split())
        raise PlatformError(
            f"Ray's dashboard at {job.dashboard} refuses: {cause}", fix="manta status"
        ) from None


def _headers(token_path: str) -> dict[str, str]:
    """Ray's token as a header: given explicitly, it needs no environment variable of this process.

    None for a Ray that was started without a token; then Ray's client looks for one itself.
    """
    if not token_path:
        return {}
    try:
        token = Path(token_path).expanduser().read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise PlatformError(f"{token_path} is not a token of Ray's", fix="manta down; manta up") from None
    except OSError as error:
        raise PlatformError(
            f"cannot read Ray's token {token_path}: {error.strerror}",
            fix="run as the user who started the platform",
        ) from None
    return {"Authorization": f"Bearer {token}"} if token else {}


def _log_lines(client: Any, job_id: str) -> Iterator[str]:
    """Whole lines of a job's log as they come, until the job ends."""
    rest = ""
    loop = asyncio.new_event_loop()
    try:
        chunks = client.tail_job_logs(job_id)
        while (chunk := loop.run_until_complete(anext(chunks, None))) is not None:
            *lines, rest = (rest + chunk).split("\n")
            yield from lines
        if rest:
            yield rest
    except RuntimeError as error:
        raise PlatformError(
            f"lost the log of job {job_id}: {error}", fix="manta status", code="stream_lost"
        ) from None
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
