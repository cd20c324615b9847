"""Prompt steps: what is asked, by which model, and what is made of answers that should be JSON."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.conversation import chat_messages
from agents.prompt_step import REPAIRS, prompt_request
from agents.scripted import ScriptedModel, ScriptedStep
from agents.structured import SchemaReader
from manta.errors import InvalidInput, ModelError, NotFound, StepError
from manta.graph import Prompt
from manta.messages import ChatMessage
from tests.agents.step_support import DyingLog, StepBench

CITY: dict[str, Any] = {
    "type": "object",
    "required": ["city", "people"],
    "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 1}},
    "additionalProperties": False,
}
GOOD = '{"city": "Rome", "people": 3}'
ROME = {"city": "Rome", "people": 3}


def prompt(text: Any = "Where?", **fields: Any) -> dict[str, Any]:
    """The options of a step, as the scheduler makes them: the fields of a `Prompt`, filled in."""
    return {"prompt": {**Prompt(text="x").model_dump(mode="json"), "text": text, **fields}}


def scripted(*answers: str, **info: Any) -> ScriptedModel:
    return ScriptedModel([ScriptedStep(text=answer) for answer in answers], **info)


async def test_text_comes_back_and_is_shown_as_it_grows(tmp_path: Path):
    model = scripted("  In Rome, I think. \n")
    bench = StepBench(tmp_path, model)
    assert await bench.run(prompt(system="Be brief.", max_tokens=9, stop=["\n\n"])) == "In Rome, I think."
    assert "".join(bench.tokens) == "  In Rome, I think. \n"
    (asked,) = model.requests
    assert asked.messages == (ChatMessage("system", "Be brief."), ChatMessage("user", "Where?"))
    assert (asked.model, asked.max_tokens, asked.stop, asked.temperature) == ("small", 9, ("\n\n",), 0.0)
    assert asked.response_format is None


async def test_messages_stand_between_system_and_text(tmp_path: Path):
    model = scripted("yes")
    history = [{"role": "human", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    await StepBench(tmp_path, model).run(prompt(system="s", messages=history))
    assert [(m.role, m.content) for m in model.requests[0].messages] == [
        ("system", "s"),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "Where?"),
    ]


async def test_the_same_step_again_is_answered_from_the_record(tmp_path: Path):
    model = scripted("once")
    bench = StepBench(tmp_path, model)
    assert [await bench.run(prompt(), {}, n) for n in (1, 2, 3)] == ["once"] * 3
    assert len(model.requests) == 1


async def test_another_model_is_asked_by_name_and_recorded_as_well(tmp_path: Path):
    small, large = scripted(), scripted("from the large one")
    bench = StepBench(tmp_path, small, others={"large": large})
    for attempt in (1, 2):
        assert await bench.run(prompt(model="large"), {}, attempt) == "from the large one"
    assert [r.model for r in large.requests] == ["large"]
    assert bench.replayed == [False, True]
    with pytest.raises(NotFound):
        await bench.run(prompt(model="huge"), {}, 3)


async def test_one_model_by_its_name_and_without_is_one_record(tmp_path: Path):
    bench = StepBench(tmp_path, scripted("a", "b"))
    context = bench.context({})
    assert context.model_named("") is context.model
    assert context.model_named("small") is context.model


@pytest.mark.parametrize(
    ("fields", "temperature", "seed"),
    [
        ({}, 0.0, None),
        ({"temperature": "0.7", "seed": "12"}, 0.7, 12),
        ({"temperature": 1, "seed": 3.0}, 1.0, 3),
        ({"temperature": None, "seed": None}, 0.0, None),
        ({"temperature": "", "seed": ""}, 0.0, None),
        ({"seed": 2**62 + 1}, 0.0, 2**62 + 1),
        ({"seed": str(2**62 + 1)}, 0.0, 2**62 + 1),
    ],
)
def test_numbers_may_come_as_text(fields: dict[str, Any], temperature: float, seed: int | None):
    request = prompt_request(prompt(**fields)["prompt"])
    assert (request.temperature, request.seed) == (temperature, seed)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": "nan"}, "temperature is 'nan'"),
        ({"temperature": True}, "temperature is 'True'"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": 2.1}, "temperature is 2.1"),
        ({"temperature": []}, "temperature is '[]'"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "one"}, "seed is 'one'"),
        ({"seed": 2**63}, "seed is"),
        ({"text": None}, "text is empty"),
        ({"text": " \n"}, "text is empty"),
        ({"text": "", "messages": [{"role": "assistant", "content": "x"}]}, "text is empty"),
        ({"messages": "hi"}, "messages are a list"),
        ({"messages": ["hi"]}, "a message is an object"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "the role 'boss'"),
        ({"messages": [{"role": "user", "content": 3}]}, "content is text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "is not text"),
    ],
)
def test_what_references_brought_is_checked(fields: dict[str, Any], cause: str):
    with pytest.raises(InvalidInput) as caught:
        prompt_request(prompt(**fields)["prompt"])
    assert cause in caught.value.message
    assert caught.value.fix
    assert not caught.value.retryable


def test_messages_alone_are_enough_and_values_become_text():
    request = prompt_request(prompt("", messages=[{"role": "user", "content": "hi"}])["prompt"])
    assert request.messages == (ChatMessage("user", "hi"),)
    assert prompt_request(prompt({"a": [1, "ü"]})["prompt"]).messages[0].content == '{"a": [1, "ü"]}'


def test_messages_are_read_as_clients_send_them():
    given = [
        {"role": "developer", "content": "rules"},
        {"type": "human", "content": [{"type": "text", "text": "a"}, "b"]},
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "tool", "content": "result"},
        {"role": "ai", "content": "c"},
    ]
    assert [(m.role, m.content) for m in chat_messages(given)] == [
        ("system", "rules"),
        ("user", "ab"),
        ("assistant", "c"),
    ]
    assert chat_messages(None) == ()


async def test_an_able_model_is_held_to_the_schema(tmp_path: Path):
    model = scripted(GOOD, abilities=("json",))
    assert await StepBench(tmp_path, model).run(prompt(json_schema=CITY)) == ROME
    asked = model.requests[0]
    assert asked.response_format is not None
    assert asked.response_format["json_schema"]["schema"] == CITY
    assert asked.messages == (ChatMessage("user", "Where?"),)


async def test_another_model_is_told_the_schema_in_words(tmp_path: Path):
    model = scripted(f"Sure! Here it is:\n```json\n{GOOD}\n```\nAnything else?")
    assert await StepBench(tmp_path, model).run(prompt(json_schema=CITY)) == ROME
    asked = model.requests[0]
    assert asked.response_format is None
    assert asked.messages[-1].content.startswith("Where?\n\nAnswer only with JSON")
    assert '"minimum": 1' in asked.messages[-1].content


@pytest.mark.parametrize("abilities", [(), ("json",)])
async def test_a_wrong_answer_is_told_what_is_wrong_and_mended(tmp_path: Path, abilities: tuple[str, ...]):
    model = scripted("I like Rome.", '{"city": "Rome", "people": 0}', GOOD, abilities=abilities)
    bench = StepBench(tmp_path, model)
    for attempt in (1, 2):
        assert await bench.run(prompt(json_schema=CITY), {}, attempt) == ROME
    assert len(model.requests) == 3
    last = model.requests[-1].messages
    assert [m.role for m in last] == ["user", "assistant", "user", "assistant", "user"]
    assert "it is not JSON" in last[2].content
    assert "people: 0 is less than the minimum" in last[4].content


async def test_an_answer_that_never_fits_ends_the_step_with_its_reason(tmp_path: Path):
    answers = ["", "[" * 5000, '{"city": NaN, "people": 1}', GOOD]
    model = scripted(*answers)
    with pytest.raises(StepError) as caught:
        await StepBench(tmp_path, model).run(prompt(json_schema=CITY))
    assert caught.value.code == "invalid_answer"
    assert not caught.value.retryable
    assert len(model.requests) == 1 + REPAIRS
    assert max(len(m.content) for r in model.requests for m in r.messages) < 3000


async def test_a_repair_that_no_longer_fits_is_an_invalid_answer_and_not_a_long_prompt(tmp_path: Path):
    model = scripted("word " * 60, GOOD, context_window=90)
    with pytest.raises(StepError, match="breaks its schema: it is not JSON"):
        await StepBench(tmp_path, model).run(prompt(json_schema=CITY))
    with pytest.raises(ModelError, match="the window of scripted"):
        await StepBench(tmp_path, scripted("x", context_window=20)).run(prompt(json_schema=CITY))


async def test_a_process_that_dies_between_the_repairs_pays_only_for_what_was_not_done(tmp_path: Path):
    model = scripted("no", "no again", "no again", GOOD)
    bench = StepBench(tmp_path, model, log=DyingLog(2))
    await bench.die(prompt(json_schema=CITY))
    assert await bench.run(prompt(json_schema=CITY), {}, 2) == ROME
    assert len(model.requests) == 4
    assert bench.replayed == [False, True, False, False]


@pytest.mark.parametrize("schema", [{"type": "thing"}, {"$ref": "http://127.0.0.1:9/x.json"}])
async def test_a_schema_that_is_none_is_the_graphs_fault_and_nothing_is_fetched(
    tmp_path: Path, schema: dict[str, Any]
):
    with pytest.raises(InvalidInput) as caught:
        await StepBench(tmp_path, scripted(*["{}"] * 3)).run(prompt(json_schema=schema))
    assert caught.value.code == "invalid_schema"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 2]", [1, 2]),
        ("The list is [1, 2].", [1, 2]),
        ("First [], then [3].", [3]),
        ("```\n[4]\n```", [4]),
        ('{"list": [5]} or rather [6]', [6]),
        ("none", None),
        ("[1, 2", None),
        ("", None),
    ],
)
def test_the_value_that_fits_is_found_in_words(text: str, value: Any):
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
    found, problem = SchemaReader(schema).read(text)
    assert (found, bool(problem)) == (value, value is None)


@given(st.text(alphabet='{}[]",:0a\\ \n`', max_size=200))
def test_no_text_breaks_the_reader(text: str):
    value, problem = SchemaReader({"type": "object"}).read(text)
    assert problem or isinstance(value, dict)
