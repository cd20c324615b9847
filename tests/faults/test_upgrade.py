"""A new version takes up what an older one left: its journal, and the runs it let go of."""

import asyncio
import sqlite3
from pathlib import Path

import psycopg
import pytest

from coordinator.submission import Submission
from manta.errors import OutcomeUnknown, Unavailable
from manta.ids import RunId, Tenant
from manta.messages import CallIntent, Task, TaskResult
from tests.faults.colony import submit
from tests.faults.conftest import MakeColony

FIXTURES = Path(__file__).parents[1] / "store" / "fixtures"
ACME, GLOBEX = Tenant("acme"), Tenant("globex")
FINISHED, FAILED, MIDDLE, NEVER_BEGUN, CANCELLED, OTHERS = (
    RunId(f"0000000{n}-0000-4000-8000-000000000000") for n in range(1, 7)
)
MAIL = "t0"
"""The key of a call that must not be repeated; its process died before it had an outcome."""


def old_versions(kind: str) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in FIXTURES.glob(f"*.{kind}.sql"))


def load(version: str, url: str) -> None:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
            file.executescript((FIXTURES / f"{version}.sqlite.sql").read_text())
        file.close()
    else:
        with psycopg.connect(url) as server:
            server.execute((FIXTURES / f"{version}.postgresql.sql").read_bytes())


@pytest.mark.parametrize(
    ("kind", "version"), [(kind, v) for kind in ("sqlite", "postgresql") for v in old_versions(kind)]
)
async def test_the_unfinished_runs_of_an_old_journal_end(
    colony: MakeColony, tmp_path: Path, kind: str, version: str, request: pytest.FixtureRequest
):
    at = f"sqlite:///{tmp_path}/journal.db" if kind == "sqlite" else request.getfixturevalue("shared")
    await asyncio.to_thread(load, version, at)
    them = colony({"steps": [{"id": "unused", "agent": "planner"}]}, at)

    async def research(task: Task) -> object:
        if task.scope.run != MIDDLE or task.scope.step != "research[1]":
            return {"about": task.input["question"]}
        mail = CallIntent(task.scope, MAIL, "tool", "send_mail", "h-t0", {}, idempotent=False)
        try:
            known = await them.members["new"].begin_call(mail)
        except OutcomeUnknown as error:
            return TaskResult(error=error.to_json(), unknown_call=MAIL)
        assert known is not None
        return (known.response or {})["result"]

    agents = {
        "planner": lambda task: {"questions": [task.input["question"]]},
        "research": research,
        "writer": lambda task: list(task.input.values()),
    }
    new = await them.add("new", agents)

    async def rests(tenant: Tenant, run: RunId, status: str) -> bool:
        return (await new.get(tenant, run))[0].status == status

    # The person who is asked finds the mail in the box.
    await them.until(lambda: rests(ACME, MIDDLE, "waiting"), "the question about the mail")
    await new.decide(ACME, MIDDLE, None, "resolve", "sent", by="someone")
    await them.until(lambda: rests(ACME, MIDDLE, "success"), "the run in the middle")
    record, _ = await new.get(ACME, MIDDLE)
    assert record.output == [[{"about": "a"}, "sent"]]
    assert [task.scope.step for task in them.runtimes["new"].tasks if task.scope.run == MIDDLE].count(
        "plan"
    ) == 0
    await them.until(lambda: rests(ACME, NEVER_BEGUN, "success"), "the run that had not begun")
    await them.until(lambda: rests(GLOBEX, OTHERS, "interrupted"), "the cancelled run")
    await new.resume(ACME, FAILED, None)
    await them.until(lambda: rests(ACME, FAILED, "success"), "the failed run")
    assert await rests(ACME, FINISHED, "success")
    assert await rests(ACME, CANCELLED, "interrupted")
    for run in (MIDDLE, NEVER_BEGUN, OTHERS, FAILED):
        events = await new.journal.events(run)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def test_a_load_of_runs_passes_to_the_successor(colony: MakeColony, tmp_path: Path):
    """Rolled over while runs come in: what is refused is not accepted, what is accepted ends."""
    them = colony(
        {
            "steps": [
                {"id": "one", "agent": "work", "input": {"n": "${input}"}},
                {"id": "two", "agent": "work", "input": {"n": "${steps.one}"}},
                {"id": "three", "agent": "work", "input": {"n": "${steps.two}"}},
            ]
        },
        f"sqlite:///{tmp_path}/journal.db",
    )

    async def work(task: Task) -> int:
        await asyncio.sleep(0.02)
        return int(task.input["n"]) + 1

    old = await them.add("me", {"work": work})
    accepted: list[RunId] = [await submit(old, n) for n in range(20)]
    refused: list[str] = []

    async def keep_coming() -> None:
        for n in range(20, 60):
            try:
                accepted.append((await old.submit(Submission("g", n, Tenant("default")))).id)
            except Unavailable as error:
                refused.append(error.code)

    coming = asyncio.create_task(keep_coming())
    await them.until(lambda: len(accepted) > 25, "the load")
    drained = asyncio.create_task(old.drain(5.0))
    await them.until(drained.done, "the drain")
    await coming
    assert set(refused) == {"draining"}
    first = them.runtimes["me"]
    await them.die("me")
    await them.add("me", {"work": work})
    for run in accepted:
        ended = await them.ended(run, "me")
        assert (ended.status, ended.output, ended.takeovers) == ("success", ended.input + 3, 0)
    done = [*first.tasks, *them.runtimes["me"].tasks]
    assert len(done) == 3 * len(accepted), "a drain repeats nothing"
