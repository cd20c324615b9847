"""Runs over HTTP: what is found, what is refused, and what becomes of a run whose client left."""

import asyncio
import json
from typing import Any

import pytest

from manta.ids import DEFAULT_TENANT, RunId
from tests.gateway.platform import Held, Local, Visitor, all_cancelled
from tests.waiting import eventually


async def running(local: Local, **more: Any) -> str:
    """A run of `hold` whose step has begun."""
    run = (await local.json("POST", "/runs", json={"agent_id": "hold", "input": {}, **more}))["run_id"]
    await eventually(lambda: local.runtime.count("work"), "the step being begun")
    await eventually(lambda: is_(local, run, "running"), "the run being taken up")
    return str(run)


async def is_(local: Local, run: str, status: str) -> bool:
    record, _ = await local.service.get(DEFAULT_TENANT, RunId(run))
    return record.status == status


async def test_pending_finds_what_is_running_too(local: Local):
    run = await running(local)
    await local.json("POST", "/runs/wait", json={"agent_id": "echo"})
    found = await local.json("POST", "/runs/search", json={"status": "pending"})
    assert [(r["run_id"], r["status"]) for r in found] == [(run, "pending")]
    assert len(await local.json("POST", "/runs/search", json={"status": "success"})) == 1
    assert len(await local.json("POST", "/runs/search", json={})) == 2


@pytest.mark.parametrize(
    "body", [{"offset": 10**30}, {"offset": 1_000_001}, {"offset": -1}, {"limit": 10**30}, {"limit": 0}]
)
@pytest.mark.parametrize("path", ["/runs/search", "/agents/search"])
async def test_pages_are_bounded(local: Local, path: str, body: dict[str, int]):
    await local.json("POST", path, 422, json=body)


@pytest.mark.parametrize("given", ["x", "-1", "1.0", "9" * 19, "9" * 5000, "²", "٣", "1 2", "5", "9" * 18])
async def test_an_event_id_is_that_of_an_event(local: Local, given: str):
    run = (await local.json("POST", "/runs/wait", json={"agent_id": "echo"}))["run"]["run_id"]
    answer = await local.json("GET", f"/runs/{run}/stream", 400, headers={"Last-Event-ID": given.encode()})
    assert answer["code"] == "invalid_cursor"


async def frames(local: Local, run: str, **request: Any) -> list[tuple[str, Any]]:
    text = (await local.http.get(f"/runs/{run}/stream", **request)).text
    parts = [dict(line.split(": ", 1) for line in frame.splitlines()) for frame in text.strip().split("\n\n")]
    return [(part["event"], json.loads(part["data"])) for part in parts]


async def test_a_stream_goes_on_after_the_last_event(local: Local):
    run = (await local.json("POST", "/runs/wait", json={"agent_id": "echo", "input": {"a": 1}}))["run"][
        "run_id"
    ]
    whole = await frames(local, run)
    assert [name for name, _ in whole] == ["metadata", *["custom"] * 3, "values", "custom", "end"]
    assert whole[-3] == ("values", {"a": 1})
    rest = await frames(local, run, headers={"Last-Event-ID": "3"})
    assert [data["seq"] for name, data in rest if name == "custom"] == [4]
    assert [name for name, _ in await frames(local, run, headers={"Last-Event-ID": "4"})] == [
        "metadata",
        "end",
    ]


async def test_an_output_that_is_no_object_is_wrapped_alike_everywhere(local: Local):
    local.release.set()
    whole = await local.json("POST", "/runs/wait", json={"agent_id": "hold"})
    assert whole["values"] == {"output": "released"}
    assert ("values", whole["values"]) in await frames(local, whole["run"]["run_id"])


async def test_a_failed_runs_error_comes_before_its_event(local: Local):
    run = (await local.json("POST", "/runs/wait", json={"agent_id": "fail"}))["run"]["run_id"]
    last = (await frames(local, run))[-3:]
    assert [name for name, _ in last] == ["error", "custom", "end"]
    assert (last[0][1]["code"], last[1][1]["type"]) == ("not_found", "run_failed")


async def test_the_platforms_own_error_is_the_last_frame(local: Local):
    run = await running(local)
    local.coordinator.away.add("watch")
    seen = await frames(local, run)
    assert [name for name, _ in seen] == ["metadata", "error"]
    assert seen[-1][1]["code"] == "unavailable"


async def test_a_cancel_that_is_repeated_is_done(local: Local):
    run = await running(local)
    await local.json("POST", f"/runs/{run}/cancel?wait=true", 204)
    await local.json("POST", f"/runs/{run}/cancel", 204)
    await local.json("POST", f"/runs/{run}/cancel?wait=true", 204)


@pytest.mark.parametrize("graph", ["echo", "fail"])
async def test_a_run_that_ended_by_itself_cannot_be_cancelled(local: Local, graph: str):
    run = (await local.json("POST", "/runs/wait", json={"agent_id": graph}))["run"]["run_id"]
    assert (await local.json("POST", f"/runs/{run}/cancel", 409))["code"] == "run_terminal"


@pytest.mark.parametrize("path", ["/runs/stream", "/runs/wait"])
@pytest.mark.parametrize(("wish", "ends"), [("cancel", True), ("continue", False)])
async def test_a_run_ends_with_its_client_only_when_told_so(local: Local, path: str, wish: str, ends: bool):
    visitor = Visitor(local.api, path, {"agent_id": "hold", "on_disconnect": wish})
    await eventually(lambda: local.runtime.count("work"), "the step being begun")
    await visitor.be_cut()
    (run,) = await local.json("POST", "/runs/search", json={})
    if ends:
        await eventually(lambda: is_(local, run["run_id"], "interrupted"), "the run being cancelled")
    assert ("cancel" in local.coordinator.calls) is ends


@pytest.mark.parametrize("path", ["/runs/stream", "/runs/wait"])
async def test_leaving_while_the_run_is_being_sent_cancels_it_as_well(local: Local, held: Held, path: str):
    visitor = Visitor(local.api, path, {"agent_id": "hold", "on_disconnect": "cancel"})
    async with asyncio.timeout(30):
        await held.sent.wait()
    await visitor.be_cut()
    held.go.set()
    await eventually(lambda: all_cancelled(local), "the run being cancelled")


async def test_leaving_before_the_first_frame_cancels_as_well(local: Local):
    visitor = Visitor(local.api, "/runs/stream", {"agent_id": "hold", "on_disconnect": "cancel"})
    await visitor.see("event: metadata")
    await visitor.leave()
    (run,) = await local.json("POST", "/runs/search", json={})
    await eventually(lambda: is_(local, run["run_id"], "interrupted"), "the run being cancelled")


async def test_a_stream_read_to_its_end_cancels_nothing(local: Local):
    response = await local.http.post("/runs/stream", json={"agent_id": "echo", "on_disconnect": "cancel"})
    assert response.text.endswith("event: end\ndata: null\n\n")
    assert "cancel" not in local.coordinator.calls


async def test_a_cancel_that_cannot_be_made_is_logged(local: Local, caplog: pytest.LogCaptureFixture):
    local.coordinator.away.add("cancel")
    visitor = Visitor(local.api, "/runs/stream", {"agent_id": "hold", "on_disconnect": "cancel"})
    await visitor.see("step_started")
    with caplog.at_level("WARNING", "manta"):
        await visitor.leave()
        await eventually(lambda: "was not cancelled" in caplog.text, "the warning")
