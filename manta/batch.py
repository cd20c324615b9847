"""Many runs from a file of tasks: the program inside a batch job, and the rules it follows.

It is a client of the platform like any other. Every line of the tasks file becomes one run and one line of
the results file; started again, it goes on with what has no success yet. Run as `python -m manta.batch`.
"""

import argparse
import asyncio
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.async_client import AsyncClient
from manta.client_core import AWAY
from manta.errors import Conflict, InvalidInput, MantaError, Unavailable
from manta.sse import Patience
from manta.wire import Run

PROGRESS = "manta-batch: "
PATIENCE_S = 300.0
_FIELDS = frozenset({"id", "input", "question"})


@dataclass(frozen=True, slots=True)
class Task:
    """One line. `bad` says why it cannot be run; then there is no input."""

    id: str
    input: Any = None
    digest: str = ""
    bad: MantaError | None = None


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is: `done` lines of `total` have a result, `failed` of them no success."""

    total: int
    done: int = 0
    failed: int = 0


def read_tasks(text: str) -> list[Task]:
    """The tasks of a file's text; blank lines are no tasks, bad lines are bad tasks.

    A line without an id is named by its content, so that inserting lines elsewhere does not rename it.

    Raises:
        InvalidInput: an id is there twice, or there is no task at all.
    """
    tasks: list[Task] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        task = _read_task(line, number)
        if task.id in seen and not task.bad and task.id != task.digest[:12]:
            raise InvalidInput(
                f"line {number}: id {task.id!r} is there twice", fix="give every line its own id"
            )
        seen[task.id] = seen.get(task.id, 0) + 1
        if seen[task.id] > 1:
            task = Task(f"{task.id}-{seen[task.id]}", task.input, task.digest, task.bad)
        tasks.append(task)
    if not tasks:
        raise InvalidInput("the tasks file has no line", fix='one JSON object per line: {"question": "..."}')
    return tasks


def idempotency_key(graph: str, task: Task, tries: int) -> str:
    """The key of a task's run. Failed tries are counted in, or it would be answered with its old failure."""
    content = json.dumps([graph, task.id, task.digest, tries])
    return f"batch-{hashlib.sha256(content.encode()).hexdigest()[:40]}"


class Results:
    """The results file. Lines are appended and durable at once; at the end one line per task is left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[dict[str, Any]] = []
        self.tries: dict[str, int] = {}
        """Runs of each task that have ended, without success."""
        self.succeeded: set[str] = set()
        for line in _read_results(path):
            self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        if line["status"] == "success":
            self.succeeded.add(line["id"])
            return
        so_far, told = self.tries.get(line["id"], 0), line.get("tries")
        # A line says it itself, as only the last one of a task is kept; lines of older files do not.
        own = told if isinstance(told, int) else so_far + bool(line.get("run_id"))
        self.tries[line["id"]] = max(so_far, own)

    def append(self, line: dict[str, Any]) -> None:
        self._count(line)
        with self._path.open("ab+") as file:
            # A crash may have left half a line: what follows it must start on a line of its own.
            if file.tell() and not self._ends_with_newline():
                file.write(b"\n")
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())

    def tidy(self, order: Sequence[str]) -> None:
        """Leave the last line of each task, in the order of the tasks, others' lines behind them."""
        last = {line["id"]: line for line in self._lines}
        place = {task_id: n for n, task_id in enumerate(order)}
        ordered = sorted(last.values(), key=lambda line: place.get(line["id"], len(place)))
        beside = self._path.with_name(f".{self._path.name}.new")
        with beside.open("wb") as file:
            file.writelines(_line(line) for line in ordered)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)

    def _ends_with_newline(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


async def run_batch(
    client: AsyncClient,
    graph: str,
    tasks: Sequence[Task],
    results: Results,
    concurrency: int,
    on_progress: Callable[[BatchProgress], None],
) -> BatchProgress:
    """Run every task that has no success yet, at most `concurrency` at once."""
    waiting = [task for task in tasks if task.id not in results.succeeded]
    done, failed = len(tasks) - len(waiting), 0
    on_progress(BatchProgress(len(tasks), done, failed))
    queue = iter(waiting)

    async def worker() -> None:
        nonlocal done, failed
        # Workers share the iterator: each takes the next task nobody has.
        for task in queue:
            line = await _perform(client, graph, task, results.tries.get(task.id, 0))
            results.append(line)
            done, failed = done + 1, failed + (line["status"] != "success")
            on_progress(BatchProgress(len(tasks), done, failed))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(waiting))):
            group.create_task(worker())
    results.tidy([task.id for task in tasks])
    return BatchProgress(len(tasks), done, failed)


async def _perform(client: AsyncClient, graph: str, task: Task, tries: int) -> dict[str, Any]:
    """The task's line. `tries` in it counts runs that ended: one that was lost from sight is found again."""

    def line(status: str, run_id: str | None, ended: int, **more: Any) -> dict[str, Any]:
        return {"id": task.id, "status": status, "run_id": run_id, "tries": tries + ended, **more}

    if task.bad is not None:
        return line("error", None, 0, error=task.bad.to_json())
    run_id: str | None = None
    try:
        run_id = (await _submit(client, graph, task, idempotency_key(graph, task, tries))).id
        result = await client.wait(run_id)
    except MantaError as error:
        return line("error", run_id, 0, error=error.to_json())
    if result.run.status == "success":
        return line("success", run_id, 1, output=result.output)
    # One that waits for a person has not ended: it is found again.
    return line(result.run.status, run_id, int(result.run.done), error=result.run.failure().to_json())


async def _submit(client: AsyncClient, graph: str, task: Task, key: str) -> Run:
    patience = Patience(task.id, client.patience_s, time.monotonic)
    while True:
        try:
            return await client.submit(
                graph, task.input, idempotency_key=key, metadata={"batch_task": task.id}
            )
        except MantaError as error:
            if not isinstance(error, Unavailable) and error.code not in AWAY:
                raise
            delay = patience.lost(str(error))
        await asyncio.sleep(delay)


def _read_task(line: str, number: int) -> Task:
    digest = hashlib.sha256(line.strip().encode()).hexdigest()
    try:
        data = json.loads(line)
    except ValueError as error:
        return Task(f"line-{number}", digest=digest, bad=InvalidInput(f"line {number} is not JSON: {error}"))
    problem = _problem(data)
    task_id = str(data["id"]) if isinstance(data, dict) and data.get("id") not in (None, "") else digest[:12]
    if problem:
        return Task(task_id, digest=digest, bad=InvalidInput(f"line {number}: {problem}"))
    run_input = data["input"] if "input" in data else {"question": data["question"]}
    return Task(task_id, run_input, digest)


def _problem(data: Any) -> str:
    if not isinstance(data, Mapping):
        return "not a JSON object"
    unknown = sorted(set(data) - _FIELDS)
    if unknown:
        return f"unknown field {unknown[0]!r}; there are id, input, question"
    if ("input" in data) == ("question" in data):
        return "it needs either input or question"
    if "question" in data and not str(data["question"] or "").strip():
        return "the question is empty"
    return ""


def _read_results(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            data = json.loads(line)
        except ValueError:
            # Half a line from a crash: that task has no result and is run again.
            continue
        if isinstance(data, dict) and isinstance(data.get("id"), str) and isinstance(data.get("status"), str):
            found.append(data)
    return found


def _line(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, ensure_ascii=False) + "\n").encode()


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the results file for this process. Raises Conflict when another batch has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another batch writes {path}", fix="wait for it, or choose another --out"
            ) from None
        yield


def say_progress(progress: BatchProgress) -> None:
    """A line that `manta batch` turns into a bar."""
    numbers = {"total": progress.total, "done": progress.done, "failed": progress.failed}
    sys.stdout.write(PROGRESS + json.dumps(numbers) + "\n")
    sys.stdout.flush()


def parse_progress(line: str) -> BatchProgress | None:
    """The inverse of `say_progress`; None for any other line."""
    if not line.startswith(PROGRESS):
        return None
    data = json.loads(line.removeprefix(PROGRESS))
    return BatchProgress(int(data["total"]), int(data["done"]), int(data["failed"]))


async def _main(arguments: argparse.Namespace) -> int:
    try:
        text = arguments.tasks.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"cannot read {arguments.tasks}: {error}", fix="check the path on this machine"
        ) from None
    tasks = read_tasks(text)
    with only_writer(arguments.out):
        async with AsyncClient(arguments.url, patience_s=PATIENCE_S) as client:
            results = Results(arguments.out)
            end = await run_batch(
                client, arguments.graph, tasks, results, arguments.concurrency, say_progress
            )
    return 1 if end.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 when every task succeeded, 1 when one did not or the batch could not run."""
    parser = argparse.ArgumentParser(prog="python -m manta.batch", description="Run a file of tasks.")
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--graph", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--url", required=True, help="base URL of the platform")
    parser.add_argument("--concurrency", type=int, default=4)
    try:
        return asyncio.run(_main(parser.parse_args(argv)))
    except MantaError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
