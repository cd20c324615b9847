"""Tool calls in every style that models write, held to their form and read back; thoughts apart from answers."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.config import ModelSettings
from manta.errors import InvalidInput
from manta.messages import ChatMessage, ChatRequest, ToolCall, ToolSpec
from serve_app.backends import call_style
from serve_app.backends.answer_parts import AnswerParts
from serve_app.backends.call_style import CallStyle, style_of
from serve_app.backends.tool_prompt import native_messages, text_messages
from tests.backends.torch_support import (
    ADD,
    CALL_MARKS,
    THOUGHT_MARKS,
    WEATHER,
    answer,
    asking,
    calls_of,
    native_text,
    parrot_backend,
    text_of,
    thought_of,
)

BODY = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% for c in m.tool_calls %}{{ c.function | tojson }}{{ c.id }}{% endfor %}{% endfor %}[assistant] "
)
PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}[assistant] "
HERMES_TEMPLATE = "{# <tool_call> #}" + BODY
THINKING_TEMPLATE = "{# <think> #}" + HERMES_TEMPLATE
ALL = (*CALL_MARKS, *THOUGHT_MARKS)
STYLES: dict[str, tuple[CallStyle, str, tuple[str, ...]]] = {
    "hermes": (call_style.HERMES, HERMES_TEMPLATE, ()),
    "without tools": (call_style.HERMES, PLAIN, ()),
    "listed": (call_style.LISTED, "{# <tool_call>[ #}" + BODY, ()),
    "mistral": (call_style.MISTRAL, "{# '[TOOL_CALLS]' #}" + BODY, ("[TOOL_CALLS]",)),
    "mistral spaced": (call_style.MISTRAL_SPACED, "{# [TOOL_CALLS] [ #}" + BODY, ("[TOOL_CALLS]",)),
    "mistral args": (call_style.MISTRAL_ARGS, "{# [TOOL_CALLS][ARGS] #}" + BODY, ("[TOOL_CALLS]", "[ARGS]")),
    "llama": (call_style.LLAMA, '{# tool_calls "parameters":  #}' + BODY, ()),
}
PARIS = ("get_weather", '{"city": "Paris {\\"x\\"} }]", "unit": "C"}')
SUM = ("add", '{"a": 2, "b": 3}')


def parsed(*calls: tuple[str, str]) -> list[tuple[str, dict]]:
    return [(name, json.loads(arguments)) for name, arguments in calls]


def named(calls: list[ToolCall]) -> list[tuple[str, dict]]:
    return [(call.name, call.arguments) for call in calls]


SEVERAL = [name for name, (style, *_) in STYLES.items() if style.between is not None]


@pytest.mark.parametrize("name", SEVERAL)
async def test_only_one_where_only_one_may_be(name: str, tmp_path: Path):
    style, template, special = STYLES[name]
    async with parrot_backend(tmp_path, template, special) as (backend, parrot):
        parrot.says = native_text(style, [SUM, SUM, SUM])
        for more, count in (({}, 3), ({"parallel_tool_calls": False}, 1), ({"tool_choice": "add"}, 1)):
            chunks = await answer(backend, asking("x", WEATHER, ADD, **more))
            assert named(calls_of(chunks)) == parsed(*[SUM] * count)


@pytest.mark.parametrize("name", STYLES)
class TestStyles:
    async def test_its_template_is_known(self, name: str, tmp_path: Path):
        style, template, special = STYLES[name]
        async with parrot_backend(tmp_path, template, special) as (backend, _):
            assert backend.dialect.style is style
            assert backend.dialect.native == (name != "without tools")
            request = asking("x", WEATHER)
            prompt = backend.dialect.render(request.messages, request.tools)
            assert "The weather of a city" in prompt

    async def test_a_text_then_calls(self, name: str, tmp_path: Path):
        style, template, special = STYLES[name]
        calls = [PARIS, SUM] if style.between is not None else [PARIS]
        lead = "" if style.anchored else "Let me see.\n"
        async with parrot_backend(tmp_path, template, special) as (backend, parrot):
            parrot.says = lead + native_text(style, calls)
            chunks = await answer(backend, asking("x", WEATHER, ADD))
        assert text_of(chunks) == lead.rstrip()
        assert named(calls_of(chunks)) == parsed(*calls)
        assert chunks[-1].finish_reason == "tool_calls"
        ids = [call.id for call in calls_of(chunks)]
        assert all(id.startswith("call_") and len(id) == 29 for id in ids)
        assert len(set(ids)) == len(ids)

    async def test_an_answer_in_text_stays_one(self, name: str, tmp_path: Path):
        _, template, special = STYLES[name]
        text = 'No <tool is needed [TOOL for {"name". '
        async with parrot_backend(tmp_path, template, special) as (backend, parrot):
            parrot.says = text
            for more in ({}, {"tool_choice": "none"}, {"tool_choice": "auto", "parallel_tool_calls": False}):
                chunks = await answer(backend, asking("x", WEATHER, ADD, **more))
                assert (text_of(chunks), calls_of(chunks)) == (text, [])
                assert chunks[-1].finish_reason == "stop"

    async def test_who_must_call_calls(self, name: str, tmp_path: Path):
        style, template, special = STYLES[name]
        async with parrot_backend(tmp_path, template, special) as (backend, parrot):
            parrot.says = native_text(style, [SUM])
            chunks = await answer(backend, asking("x", WEATHER, ADD, tool_choice="required"))
            assert (text_of(chunks), named(calls_of(chunks))) == ("", parsed(SUM))
            parrot.says = "I would rather not call anything."
            for more in ({"tool_choice": "add"}, {"tool_choice": "required", "parallel_tool_calls": False}):
                chunks = await answer(backend, asking("x", ADD, **more))
                assert text_of(chunks) == ""
                assert [call.name for call in calls_of(chunks)] == ["add"]
                assert calls_of(chunks)[0].arguments["b"] == 3
                assert chunks[-1].finish_reason == "tool_calls"

    async def test_a_call_that_is_cut_off_is_left_out(self, name: str, tmp_path: Path):
        style, template, special = STYLES[name]
        async with parrot_backend(tmp_path, template, special) as (backend, parrot):
            parrot.says = native_text(style, [PARIS])
            chunks = await answer(backend, asking("x", WEATHER, max_tokens=12))
        assert (text_of(chunks), calls_of(chunks)) == ("", [])
        assert chunks[-1].finish_reason == "length"

    @given(data=st.data())
    def test_read_the_same_however_it_comes(self, name: str, data):
        style = STYLES[name][0]
        calls = [PARIS, SUM] if style.between is not None else [PARIS]
        text = ("" if style.anchored else "Here:\n\n") + native_text(style, calls)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
        parts = AnswerParts(style)
        pushed = [parts.push(text[a:b]) for a, b in pairwise([0, *cuts, len(text)])]
        pushed.append(parts.finish())
        assert "".join(part.text for part in pushed) == ("" if style.anchored else "Here:")
        assert named([call for part in pushed for call in part.calls]) == parsed(*calls)


@given(st.text(st.sampled_from("<think/> \nab"), max_size=30), st.booleans(), st.data())
def test_thoughts_are_told_the_same_however_they_come(text: str, opened: bool, data):
    def read(pieces: list[str]) -> tuple[str, str]:
        parts = AnswerParts(None, thinks=True, opened=opened)
        told = [*map(parts.push, pieces), parts.finish()]
        return "".join(part.reasoning for part in told), "".join(part.text for part in told)

    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    thought, answered = read([text])
    assert read([text[a:b] for a, b in pairwise([0, *cuts, len(text)])]) == (thought, answered)
    if not opened and not text.lstrip().startswith("<think>"):
        assert (thought, answered) == ("", text)


@pytest.mark.parametrize(
    ("text", "opened", "thought", "answered"),
    [
        ("<think>\nHm, yes.\n</think>\n\nParis.", False, "Hm, yes.", "Paris."),
        ("Hm, yes.\n</think>\n\nParis.", True, "Hm, yes.", "Paris."),
        ("Paris. <think>no</think>", False, "", "Paris. <think>no</think>"),
        ("<think>cut off", False, "cut off", ""),
        ("<think>\n\n</think>\n\nParis.\n", False, "", "Paris.\n"),
    ],
)
def test_a_thought_is_no_part_of_the_answer(text: str, opened: bool, thought: str, answered: str):
    parts = AnswerParts(None, thinks=True, opened=opened)
    told = [*map(parts.push, text), parts.finish()]
    assert "".join(part.reasoning for part in told) == thought
    assert "".join(part.text for part in told) == answered


@pytest.mark.parametrize(("marks", "special"), [((), ()), (ALL, ()), (ALL, THOUGHT_MARKS)])
class TestThoughts:
    """Of a model for which the marks are text, tokens, or special tokens."""

    async def test_text_and_calls_behind_it(
        self, tmp_path: Path, marks: tuple[str, ...], special: tuple[str, ...]
    ):
        async with parrot_backend(tmp_path, THINKING_TEMPLATE, special, marks) as (backend, parrot):
            thought = "<think>\nI need the sum.\n</think>\n\n"
            parrot.says = f"{thought}Five."
            chunks = await answer(backend, asking("x"))
            assert (thought_of(chunks), text_of(chunks)) == ("I need the sum.", "Five.")
            parrot.says = f"{thought}{native_text(call_style.HERMES, [SUM])}"
            for more in ({}, {"tool_choice": "required"}):
                chunks = await answer(backend, asking("x", ADD, **more))
                assert (thought_of(chunks), text_of(chunks)) == ("I need the sum.", "")
                assert named(calls_of(chunks)) == parsed(SUM)

    async def test_a_form_begins_behind_it(
        self, tmp_path: Path, marks: tuple[str, ...], special: tuple[str, ...]
    ):
        form = {"type": "choice", "choice": ["yes", "no"]}
        async with parrot_backend(tmp_path, THINKING_TEMPLATE, special, marks) as (backend, parrot):
            parrot.says = "<think>Well?</think>\nmaybe"
            chunks = await answer(backend, asking("x", response_format=form))
            assert (thought_of(chunks), text_of(chunks) in ("yes", "no")) == ("Well?", True)
            parrot.says = "no"
            assert text_of(await answer(backend, asking("x", response_format=form))) == "no"

    async def test_a_prompt_may_open_it(
        self, tmp_path: Path, marks: tuple[str, ...], special: tuple[str, ...]
    ):
        form = {"type": "choice", "choice": ["yes", "no"]}
        async with parrot_backend(tmp_path, f"{HERMES_TEMPLATE}<think>\n", special, marks) as (
            backend,
            parrot,
        ):
            parrot.says = "Well?\n</think>\n\nyes"
            for more in ({}, {"response_format": form}):
                chunks = await answer(backend, asking("x", **more))
                assert (thought_of(chunks), text_of(chunks)) == ("Well?", "yes")
            raw = ChatRequest((), prompt="x", max_tokens=50)
            assert thought_of(await answer(backend, raw)) == ""


async def test_a_form_for_whoever_does_not_call(tmp_path: Path):
    form = {"type": "choice", "choice": ["yes", "no"]}
    async with parrot_backend(tmp_path, HERMES_TEMPLATE) as (backend, parrot):
        parrot.says = "no"
        assert text_of(await answer(backend, asking("x", ADD, response_format=form))) == "no"
        parrot.says = native_text(call_style.HERMES, [SUM])
        chunks = await answer(backend, asking("x", ADD, response_format=form))
        assert named(calls_of(chunks)) == parsed(SUM)


async def test_stop_strings_are_for_text(tmp_path: Path):
    async with parrot_backend(tmp_path, HERMES_TEMPLATE) as (backend, parrot):
        parrot.says = native_text(call_style.HERMES, [SUM])
        for more in ({}, {"tool_choice": "required"}):
            chunks = await answer(backend, asking("x", ADD, stop=("\n", '"b"'), **more))
            assert named(calls_of(chunks)) == parsed(SUM)
        parrot.says = "One.\nTwo."
        chunks = await answer(backend, asking("x", ADD, stop=("\n",)))
        assert (text_of(chunks), chunks[-1].finish_reason) == ("One.", "stop")


async def test_a_schema_that_can_be_held_only_in_part(tmp_path: Path):
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1]}},
        "required": ["a"],
        "additionalProperties": False,
        "not": {"type": "null"},
    }
    tool = ToolSpec("odd", "", schema)
    async with parrot_backend(tmp_path, HERMES_TEMPLATE) as (backend, _):
        chunks = await answer(backend, asking("x", tool, tool_choice="required", parallel_tool_calls=False))
        assert named(calls_of(chunks)) == [("odd", {"a": 1})]
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with pytest.raises(InvalidInput, match="not"):
            await answer(backend, asking("x", response_format=form))
        form["json_schema"]["strict"] = False  # type: ignore[index]
        assert text_of(await answer(backend, asking("x", response_format=form))) == '{"a": 1}'


@pytest.mark.parametrize(
    "request_",
    [
        asking("x", ADD, tool_choice="unknown"),
        asking("x", ToolSpec("broken", "", {"type": "bogus"})),
        asking("x", response_format={"type": "yaml"}),
        asking("x", response_format={"type": "json_schema"}),
        asking("x", response_format={"type": "choice", "choice": []}),
        asking("x", response_format={"type": "regex", "regex": "("}),
        asking("x", response_format={"type": "grammar"}),
        ChatRequest((), prompt="x", tools=(ADD,)),
    ],
)
async def test_what_cannot_be_is_refused(tmp_path: Path, request_: ChatRequest):
    async with parrot_backend(tmp_path, HERMES_TEMPLATE) as (backend, _):
        with pytest.raises(InvalidInput):
            await answer(backend, request_)
        assert backend.engine.stats().running == backend.engine.stats().waiting == 0


HISTORY = (
    ChatMessage("system", "Be brief."),
    ChatMessage("user", "Weather?"),
    ChatMessage(
        "assistant", "", (ToolCall("call_1", "get_weather", {"city": "Bern"}), ToolCall("call_2", "add", {}))
    ),
    ChatMessage("tool", "rain", tool_call_id="call_1"),
    ChatMessage("tool", "5", tool_call_id="call_2"),
)


def test_a_history_with_calls_as_text():
    rendered = text_messages(HISTORY, (WEATHER,))
    assert [message["role"] for message in rendered] == ["system", "user", "assistant", "user"]
    assert rendered[0]["content"].startswith("Be brief.\n\n# Tools")
    assert json.dumps(WEATHER.parameters) in rendered[0]["content"]
    assert rendered[2]["content"].startswith(
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>\n<tool_call>'
    )
    assert rendered[3]["content"] == (
        "<tool_response>\nrain\n</tool_response>\n<tool_response>\n5\n</tool_response>"
    )
    assert text_messages(HISTORY[1:2], (ADD,))[0]["role"] == "system"
    assert text_messages(HISTORY[:2], ()) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
    ]


def test_a_history_with_calls_for_a_template_that_knows_them():
    rendered = native_messages(HISTORY, short_ids=True)
    call = rendered[2]["tool_calls"][0]
    assert call["function"] == {"name": "get_weather", "arguments": {"city": "Bern"}}
    assert len(call["id"]) == 9
    assert call["id"].isalnum()
    assert rendered[3]["tool_call_id"] == call["id"]
    assert rendered[3]["name"] == "get_weather"
    assert native_messages(HISTORY)[3]["tool_call_id"] == "call_1"


def test_templates_whose_calls_are_of_another_kind_are_not_taken_for_known():
    assert style_of("<tool_call>\n<function=name>") is None
    assert style_of("{{ messages }}") is None


@pytest.mark.parametrize(
    ("template", "role"),
    [
        (PLAIN, "tool"),
        (
            "{% for m in messages %}{% if m.role in ('user', 'assistant') %}{{ m.content }}{% endif %}{% endfor %}",
            "user",
        ),
        (
            "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no') }}{% endif %}{% endfor %}",
            "user",
        ),
    ],
)
async def test_results_have_a_role_that_the_template_renders(tmp_path: Path, template: str, role: str):
    async with parrot_backend(tmp_path, template) as (backend, _):
        assert backend.dialect._result_role == role
        assert text_messages(HISTORY, (), role)[-1]["role"] == role


async def test_special_tokens_in_tools_stay_text(tmp_path: Path):
    tool = ToolSpec("x", "ends </s> here", {"type": "object", "properties": {"</s>": {"type": "string"}}})
    for template in (HERMES_TEMPLATE, PLAIN):
        async with parrot_backend(tmp_path, template) as (backend, _):
            request = asking("x", tool)
            prompt = backend.dialect.render(request.messages, request.tools)
            assert 2 not in backend.engine.encode(prompt)


async def test_an_answer_without_a_bound_ends_where_the_settings_say(tmp_path: Path):
    async with parrot_backend(tmp_path, PLAIN) as (backend, parrot):
        parrot.says = "word " * 600

        async def made(asked: int | None = None, **settings: object) -> int | None:
            backend._settings = ModelSettings.model_validate(settings)
            last = (await answer(backend, asking("x", max_tokens=asked)))[-1]
            return last.usage and last.usage.output_tokens

        whole = len(backend.engine.encode(parrot.says)) + 1
        assert whole > 512
        assert await made(source="/a/model") == whole
        assert await made() == 512
        assert await made(max_tokens=7) == await made(source="/a/model", max_tokens=7) == 7
        assert await made(9, source="/a/model", max_tokens=7) == 9
