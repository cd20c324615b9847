"""Every ready graph on the real platform with the small model, and a LangGraph graph of a user's own."""

from pathlib import Path
from typing import Any

import pytest

from manta.client import Client
from manta.errors import MantaError
from tests.live.conftest import LivePlatform

LAMP = (
    "The Glow lamp is charged with its cable. Charging the Glow lamp takes two hours.\n\n"
    "The Glow lamp shines for five hours on one charge. Its light is warm and soft."
)
HEATER = (
    "The Warmbox heater heats a room of twenty square metres. "
    "The Warmbox heater must stand one metre away from every curtain."
)
DOCUMENTS = {"lamp.md": LAMP, "heater.md": HEATER}


@pytest.fixture(scope="module")
def manuals(platform: LivePlatform, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("manuals")
    with platform.client() as client:
        for name, text in DOCUMENTS.items():
            (folder / name).write_text(text)
            client.add_document("manuals", folder / name)
    return "manuals"


def output(client: Client, graph: str, **given: Any) -> dict[str, Any]:
    return client.run(graph, given).output


def check_sources(sources: list[dict[str, Any]]) -> None:
    assert sources
    for source in sources:
        assert DOCUMENTS[source["document"]][source["start"] : source["end"]] == source["text"]


def test_chain(client: Client):
    given = {"template": "Write a slogan for {what}.", "variables": {"what": "a bakery"}}
    assert output(client, "chain", **given)["answer"].strip()
    with pytest.raises(MantaError) as refused:
        client.run("chain", {"template": "{nobody}"})
    assert refused.value.code == "missing_variable"


def test_sequential(client: Client):
    found = output(client, "sequential", question="Why do cities plant trees?")
    assert all(found[part].strip() for part in ("points", "draft", "answer"))


@pytest.mark.parametrize("question", ["Why is the sky blue?", "Write two lines about rain.", "zxcv"])
def test_router_takes_a_branch_whatever_the_model_says(client: Client, question: str):
    run = client.run("router", {"question": question})
    branches = {"explain", "compare", "write", "other"}
    assert run.output["kind"] in branches
    assert run.output["answer"].strip()
    states = {step.key: step.state for step in client.get(run.run.id).steps or ()}
    assert {name for name in branches if states[name] == "done"} == {run.output["kind"]}


def test_tool_agent_computes_and_looks_up(client: Client, manuals: str):
    computed = output(client, "tool_agent", question="What is 17% of 2,340?")
    assert computed["answer"] == "17 / 100 * 2340 = 397.8."
    known = output(client, "tool_agent", question="How long does the Glow lamp shine?", collection=manuals)
    assert "five hours" in known["answer"]
    check_sources(known["sources"])


def test_the_small_model_chooses_its_searches(client: Client, manuals: str):
    run = client.run("finder", {"question": "How long does the Glow lamp shine?", "collection": manuals})
    calls = client.calls(run.run.id)
    assert any(call.kind == "tool" and call.name == "search_documents" for call in calls)
    assert all(call.state == "done" for call in calls)
    assert any("five hours" in sentence["text"] for sentence in run.output["sentences"])
    check_sources(run.output["passages"])


def test_self_consistency(client: Client):
    given = {"question": "Is ice cold?", "choices": ["yes", "no"], "samples": 3}
    found = output(client, "self_consistency", **given)
    assert found["samples"] == 3
    assert sum(vote["count"] for vote in found["votes"]) == 3 - found["unusable"]
    assert found["answer"] in ("yes", "no", None)
    assert (found["answer"] is None) is (found["unusable"] == 3)


def test_self_critique_ends(client: Client):
    run = client.run("self_critique", {"question": "Why do leaves fall in autumn?", "rounds": 2})
    assert run.output["answer"].strip()
    assert run.run.usage.model_calls <= 5
    assert run.output["satisfied"] is (run.output["criticism"] == "")


def test_several_angles(client: Client):
    found = output(
        client, "several_angles", question="Should a shop open on Sundays?", angles=["cost", "rest"]
    )
    assert [view["angle"] for view in found["views"]] == ["cost", "rest"]
    assert found["answer"].strip()


def test_support_chat_on_a_thread(client: Client, manuals: str):
    thread = client.threads.create().id

    def say(text: str, **more: Any) -> dict[str, Any]:
        given = {"messages": [{"role": "user", "content": text}], **more}
        found: dict[str, Any] = client.run("support_chat", given, thread=thread).output
        return found

    first = say("How long does charging the Glow lamp take?", collection=manuals)
    assert "two hours" in first["answer"]
    check_sources(first["sources"])
    second = say("And how long does it shine?")
    assert "five hours" in second["answer"]
    check_sources(second["sources"])
    third = say("Who won the football cup in Brazil?")
    assert (third["known"], third["sources"]) == (False, [])
    kept = client.threads.get(thread)
    assert [message["role"] for message in kept.messages] == ["user", "assistant"] * 3


def test_map_reduce(client: Client, manuals: str):
    found = output(client, "map_reduce", question="How long does the Glow lamp shine?", collection=manuals)
    assert "five hours" in found["answer"]
    assert (found["documents"], found["pieces"]) == (2, 2)
    assert {note["document"] for note in found["notes"]} <= set(DOCUMENTS)
    texts = [f"{text}\n\n{text}" for text in DOCUMENTS.values()]
    summed = output(client, "map_reduce", texts=texts, piece_tokens=60)
    assert summed["pieces"] > 2
    assert summed["answer"]


def test_a_langgraph_graph_of_the_users_own(platform: LivePlatform, client: Client):
    run = client.run("reviewed", {"topic": "rain"})
    assert run.output["words"] == len(run.output["draft"].split()) > 0
    assert (run.run.usage.model_calls, run.run.usage.tool_calls) == (1, 1)
    assert len(platform.notes("counted", run.run.id)) == 1
