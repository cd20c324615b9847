"""docs/api.md lists what the OpenAPI document has: every route, every field of ours, every event and channel."""

import re
from typing import Any, get_args, get_type_hints

import pytest

from serve_app.gateway.commands import _HANDLERS
from serve_app.gateway.run_bodies import RunCreate
from serve_app.gateway.shapes import RunJson, WaitingJson
from serve_app.gateway.sse import FRAMES
from tests.docs.pages import ROOT, bare, tables
from tests.gateway.platform import Local
from tests.gateway.protocol_spec import SPEC, operations, spec

PAGE = ROOT / "docs/api.md"
TEXT = PAGE.read_text()


def listed() -> list[set[tuple[str, str]]]:
    """The routes of the page's two tables."""
    found = []
    for rows in tables(PAGE, "Route"):
        found.append({(method, path) for method, path in (bare(row[0]).split() for row in rows)})
    return found


def first_cells(heading: str) -> list[str]:
    return [name for row in tables(PAGE, heading)[0] for name in re.findall(r"`([^`]+)`", row[0])]


async def test_every_route_is_listed_and_no_other(local: Local):
    protocol, own = listed()
    paths: dict[str, Any] = local.api.openapi()["paths"]
    there = {(method.upper(), path) for path, found in paths.items() for method in found}
    assert protocol | own == there
    assert not protocol & own
    if SPEC.exists():
        assert protocol == operations()


@pytest.mark.skipif(not SPEC.exists(), reason=f"the Agent Protocol's OpenAPI document is not at {SPEC}")
def test_fields_of_a_new_run_are_those_that_the_protocol_lacks():
    theirs = spec()["components"]["schemas"]["RunCreate"]["properties"].keys() | {"stream_mode"}
    rows = {bare(row[0]): bare(row[1]) for row in tables(PAGE, "Field of Manta")[0]}
    fields = RunCreate.model_fields
    assert rows.keys() == fields.keys() - theirs
    for name, default in rows.items():
        told = {"null": None, '"enqueue"': "enqueue", "0": 0}[default]
        assert fields[name].default == told


@pytest.mark.skipif(not SPEC.exists(), reason=f"the Agent Protocol's OpenAPI document is not at {SPEC}")
def test_fields_of_a_run_are_those_that_the_protocol_lacks():
    schemas = spec()["components"]["schemas"]
    theirs = schemas["RunCreate"]["properties"].keys() | schemas["Run"]["allOf"][1]["properties"].keys()
    rows = tables(PAGE, "Field of Manta")[1]
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert told == get_type_hints(RunJson).keys() - theirs
    waiting = next(row[1] for row in rows if "`waiting`" in row[0])
    assert set(re.findall(r"`([^`]+)`", waiting)) == get_type_hints(WaitingJson).keys()
    state = next(row[1] for row in rows if "`state`" in row[0])
    assert set(get_args(get_type_hints(RunJson)["state"])) <= set(re.findall(r"`([^`]+)`", state))


async def test_actions_events_and_commands_are_all_there(local: Local):
    schemas = local.api.openapi()["components"]["schemas"]
    assert first_cells("`action`") == sorted(
        schemas["DecisionBody"]["properties"]["action"]["enum"],
        key=["approve", "edit", "reject", "retry", "resolve"].index,
    )
    assert first_cells("Event") == list(FRAMES)
    for command in _HANDLERS:
        assert f"`{command}`" in TEXT


async def test_the_statuses_are_those_of_the_document(local: Local):
    paths = local.api.openapi()["paths"]
    documented = {s for found in paths.values() for told in found.values() for s in told["responses"]}
    errors = {status for status in documented if status >= "400"}
    told = {status for row in tables(PAGE, "Status")[0] for status in re.findall(r"\d+", row[0])}
    # Of models beside; a wrong method and headers that are refused before any route are in no OpenAPI document.
    assert told == (errors - {"502", "504"}) | {"405", "431"}


def test_the_example_is_a_run_of_a_ready_graph():
    graph = re.search(r'"agent_id": "(\w+)"', TEXT)
    assert graph is not None
    assert (ROOT / f"coordinator/graphs/{graph[1]}.yaml").is_file()
