"""Constrained output always has its form, unless it was cut off."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from manta.errors import ModelError
from serve_app.engine.bundle import ModelBundle
from serve_app.engine.core import EngineCore
from serve_app.engine.engine import Engine, EngineConfig, GenerationRequest, SamplingParams
from serve_app.engine.forms import form as forms
from serve_app.engine.forms.compiler import FormCompiler
from serve_app.engine.forms.form import Form
from tests.engine.support import Collector, generate, needs

jsonschema = pytest.importorskip("jsonschema")
pytestmark = needs("llguidance")

CONFIG = EngineConfig(dtype="float32", max_batch=4, kv_tokens=4096, prefill_chunk=64, kv_page=32)
PROMPT = tuple(range(5, 25))
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def compiler_of(bundle: ModelBundle) -> FormCompiler:
    return FormCompiler(bundle.tokenizer, bundle.model.spec.vocab_size, bundle.end_ids)


def run(
    bundle: ModelBundle,
    *params: SamplingParams,
    config: EngineConfig = CONFIG,
    compiler: FormCompiler | None = None,
) -> Collector:
    """One request for each, named by its place."""
    core, heard = EngineCore(bundle, config), Collector()
    compiler = compiler or compiler_of(bundle)
    for index, each in enumerate(params):
        request = GenerationRequest(str(index), PROMPT, each)
        core.check(request)
        core.add(request, heard, compiler.guide(each.form) if each.form is not None else None)
    while core.busy:
        core.step(0.0)
    return heard


def held(form: Form, **more: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 300, "form": form, **more})


@pytest.fixture(scope="module")
def small_once(small_loaded: ModelBundle) -> Iterator[ModelBundle]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield small_loaded
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def compiler(small_once: ModelBundle) -> FormCompiler:
    return compiler_of(small_once)


NAMES = st.sampled_from(("a", "bc", 'q"', "é", "x y"))
SCALARS = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=4), st.none()), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
    st.tuples(st.integers(-20, 20), st.integers(0, 40)).map(
        lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
    ),
    st.tuples(st.integers(0, 3), st.integers(0, 4)).map(
        lambda pair: {"type": "string", "minLength": pair[0], "maxLength": sum(pair)}
    ),
    st.sampled_from(("^[a-c]{2,4}$", "^x?y$")).map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.just({"type": "string", "format": "ipv4"}),
)


def _objects(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.dictionaries(NAMES, inner, max_size=3), st.booleans()).map(
        lambda pair: {
            "type": "object",
            "properties": pair[0],
            "required": sorted(pair[0]) if pair[1] else [],
            "additionalProperties": False,
        }
    )


def _arrays(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
        lambda t: {"type": "array", "items": t[0], "minItems": t[1], "maxItems": t[1] + t[2]}
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        _objects(inner),
        _arrays(inner),
        st.lists(inner, min_size=1, max_size=2).map(lambda any: {"anyOf": any}),
    ),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(SCHEMAS, st.integers(0, 1000), st.sampled_from((0.0, 1.0, 3.0)))
@example(PERSON, 1, 1.0)
@example(
    {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}},
    1,
    1.0,
)
def test_output_fits_its_schema(
    small_once: ModelBundle, compiler: FormCompiler, schema, seed, temperature
) -> None:
    params = held(forms.json_schema(schema), max_tokens=200, temperature=temperature, seed=seed)
    heard = run(small_once, params, replace(params, seed=seed + 1, frequency_penalty=0.5), compiler=compiler)
    for id in "01":
        if heard.last(id).finish_reason == "stop":
            answer = json.loads(heard.text(id))
            jsonschema.validate(answer, schema, format_checker=jsonschema.FormatChecker())
        else:
            assert heard.last(id).finish_reason == "length"
            assert heard.last(id).output_tokens == 200


def test_bounded_schemas_come_to_their_end(small: ModelBundle) -> None:
    form = forms.json_schema(PERSON)
    heard = run(small, *(held(form, temperature=2.0, seed=seed) for seed in range(12)))
    for index in range(12):
        assert heard.last(str(index)).finish_reason == "stop"
        text = heard.text(str(index))
        jsonschema.validate(json.loads(text), PERSON)
        # As `json.dumps` writes it, up to escapes: no blank that the model could repeat.
        assert len(re.sub(r"\s", "", text)) >= len(
            re.sub(r"\s", "", json.dumps(json.loads(text), ensure_ascii=False))
        )
        assert text.count(": ") >= 2
        assert "\n" not in text


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(
        (r"[a-z]{3,5}", r"\d{4}-[\d.]\D", r"(yes|no)/(a\/b)", "é+?x{0,3}", r"\\[/][b-d]?", "a\nb|c")
    ),
    st.integers(0, 1000),
)
def test_output_matches_its_expression(
    small_once: ModelBundle, compiler: FormCompiler, pattern, seed
) -> None:
    heard = run(
        small_once, held(forms.regex(pattern), temperature=3.0, seed=seed, max_tokens=60), compiler=compiler
    )
    if heard.last("0").finish_reason == "stop":
        assert re.fullmatch(pattern, heard.text("0"))
    else:
        assert heard.last("0").output_tokens == 60


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=8), min_size=1, max_size=4), st.integers(0, 1000))
@example(["\x7f\x01\u2028"], 1)
def test_output_is_one_of_the_choices(small_once: ModelBundle, compiler: FormCompiler, texts, seed) -> None:
    assume(not any("\0" in text or "<" in text for text in texts))
    heard = run(small_once, held(forms.choice(texts), temperature=2.0, seed=seed), compiler=compiler)
    assert heard.last("0").finish_reason == "stop"
    assert heard.text("0") in texts


def test_output_follows_a_lark_grammar(small: ModelBundle) -> None:
    grammar = 'start: sum\nsum: NUMBER ("+" NUMBER){1,3}\nNUMBER: /[0-9]{1,3}/'
    heard = run(small, *(held(forms.lark(grammar), temperature=2.0, seed=seed) for seed in range(5)))
    for index in range(5):
        assert re.fullmatch(r"\d{1,3}(\+\d{1,3}){1,3}", heard.text(str(index)))
        assert heard.last(str(index)).finish_reason == "stop"


def test_any_object_is_one(small: ModelBundle) -> None:
    heard = run(small, *(held(forms.json_object(), temperature=1.0, seed=seed) for seed in range(8)))
    ended = [str(index) for index in range(8) if heard.last(str(index)).finish_reason == "stop"]
    assert ended
    assert all(isinstance(json.loads(heard.text(id)), dict) for id in ended)


def test_what_is_cut_off_says_so_and_is_a_beginning(small: ModelBundle) -> None:
    form = forms.json_schema(PERSON)
    whole = run(small, held(form, temperature=1.0, seed=3)).text("0")
    cut = run(small, held(form, temperature=1.0, seed=3, max_tokens=4))
    assert cut.last("0").finish_reason == "length"
    assert whole.startswith(cut.text("0"))
    assert len(cut.text("0")) < len(whole)


def test_the_end_comes_only_where_the_form_allows_it(small: ModelBundle) -> None:
    """Whatever the model wants: an end token or a further one, and whatever `ignore_eos` says."""
    eager = held(forms.regex("[ab]{3,6}"), logit_bias={"2": 100.0})
    heard = run(small, eager, replace(eager, ignore_eos=True), replace(eager, logit_bias={"2": -100.0}))
    assert [len(heard.text(id)) for id in "012"] == [3, 3, 6]
    assert all(heard.last(id).finish_reason == "stop" for id in "012")


def test_one_form_for_many_rows_and_none_for_others(small: ModelBundle) -> None:
    form = forms.regex("[0-9]{8}")
    free = SamplingParams(max_tokens=10, ignore_eos=True)
    heard = run(small, free, held(form), held(form, temperature=1.0, seed=1), free)
    alone = run(small, free)
    assert heard.text("0") == heard.text("3") == alone.text("0")
    assert all(re.fullmatch("[0-9]{8}", heard.text(id)) for id in "12")


def test_a_greedy_choice_is_the_likeliest_allowed(small: ModelBundle) -> None:
    """The shortcut that asks for one token alone chooses as the mask of all does."""
    form = forms.json_schema(PERSON)
    # A bias of nothing takes the long way.
    heard = run(small, held(form), held(form, logit_bias={"7": 0.0}))
    assert heard.tokens("0") == heard.tokens("1")


def test_asking_for_one_token_agrees_with_the_mask(small: ModelBundle) -> None:
    compiler = compiler_of(small)
    generator = np.random.default_rng(1)
    for form in (forms.json_schema(PERSON), forms.regex("(ab|a.)*"), forms.json_object()):
        guide = compiler.guide(form)
        for _ in range(40):
            if guide.stopped:
                break
            allowed = guide.allowed()
            assert allowed.shape == (400,)
            forced = guide.forced()
            if forced:
                assert np.flatnonzero(allowed).tolist() == forced[:1]
            else:
                assert [guide.allows(token) for token in range(400)] == allowed.tolist()
            going_on = np.flatnonzero(allowed & (np.arange(400) != 2))
            if not len(going_on):
                break
            guide.accept(int(generator.choice(going_on)))


def test_what_is_forced_is_not_asked_of_the_model(small: ModelBundle) -> None:
    constant = {"a_long_name": {"const": "and a long value"}}
    form = forms.json_schema({"type": "object", "properties": constant, "required": ["a_long_name"]})
    core, heard = EngineCore(small, CONFIG), Collector()
    core.add(GenerationRequest("a", PROMPT, held(form)), heard, compiler_of(small).guide(form))
    while core.busy:
        core.step(0.0)
    assert json.loads(heard.text("a")) == {"a_long_name": "and a long value"}
    last = heard.last("a")
    assert last.output_tokens == len(heard.tokens("a")) > core.stats().steps + 5
    assert len(heard.outputs["a"]) == core.stats().steps


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forced_tokens_are_those_the_model_would_be_held_to(small: ModelBundle, temperature: float) -> None:
    """Logprobs need the model for each token, so asking for them goes step by step."""
    params = held(forms.json_schema(PERSON), temperature=temperature, seed=3, frequency_penalty=0.3)
    heard = run(small, params, replace(params, logprobs=0))
    assert heard.tokens("0") == heard.tokens("1")
    assert len(heard.outputs["0"]) < len(heard.outputs["1"])


def test_forced_tokens_keep_to_the_limits(small: ModelBundle) -> None:
    form = forms.regex("ab c[0-9] and so on for a while")
    whole = run(small, held(form))
    made = whole.tokens("0")
    for limit in range(1, len(made)):
        cut = run(small, held(form, max_tokens=limit))
        assert cut.tokens("0") == made[:limit]
        assert (cut.last("0").output_tokens, cut.last("0").finish_reason) == (limit, "length")
    stopped = run(small, held(form, stop=("so on",)))
    assert stopped.text("0") == whole.text("0").partition("so on")[0]
    assert stopped.last("0").finish_reason == "stop"
    ended = run(small, held(form, stop_token_ids=(made[-2],)))
    assert ended.tokens("0") == made[: made.index(made[-2]) + 1]


def test_a_form_survives_preemption(small: ModelBundle) -> None:
    params = [
        held(forms.regex("[0-9a-f]{60}"), temperature=1.0, seed=seed, max_tokens=70) for seed in range(4)
    ]
    roomy = run(small, *params, config=replace(CONFIG, max_batch=1))
    core, tight = EngineCore(small, replace(CONFIG, kv_tokens=128, kv_page=8)), Collector()
    compiler = compiler_of(small)
    for index, each in enumerate(params):
        assert each.form is not None
        core.add(GenerationRequest(str(index), PROMPT, each), tight, compiler.guide(each.form))
    while core.busy:
        core.step(0.0)
    assert core.stats().preempted > 0
    assert [tight.text(id) for id in "0123"] == [roomy.text(id) for id in "0123"]
    assert all(re.fullmatch("[0-9a-f]{60}", tight.text(id)) for id in "0123")


def test_a_lenient_form_holds_what_can_be_held(small: ModelBundle) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 4, "uniqueItems": True}
    heard = run(small, held(forms.json_schema(schema, lenient=True), temperature=1.0, seed=1))
    assert 2 <= len(json.loads(heard.text("0"))) <= 4


def test_a_callers_options_do_not_loosen_the_blanks(small: ModelBundle) -> None:
    schema = {**PERSON, "x-guidance": {"whitespace_flexible": True}}
    assert "\n" not in run(small, held(forms.json_schema(schema), temperature=3.0, seed=2)).text("0")


def test_a_form_that_breaks_ends_only_its_request(small: ModelBundle) -> None:
    core, heard = EngineCore(small, CONFIG), Collector()
    guide = compiler_of(small).guide(forms.choice(["x", "y"]))
    with pytest.raises(ModelError):
        guide.accept(small.tokenizer.encode("z")[0])
    params = held(forms.choice(["x", "y"]))
    core.add(GenerationRequest("bad", PROMPT, params), heard, guide)
    core.add(GenerationRequest("good", PROMPT, SamplingParams(max_tokens=5, ignore_eos=True)), heard)
    while core.busy:
        core.step(0.0)
    assert heard.last("bad").finish_reason == "error"
    assert "form" in (heard.last("bad").error or "")
    assert heard.last("good").finish_reason == "length"


def test_cancelled_within_a_step_like_all_others(small: ModelBundle) -> None:
    core, heard = EngineCore(small, replace(CONFIG, max_batch=1)), Collector()
    params = held(forms.regex("a{100,200}"))
    assert params.form is not None
    core.add(GenerationRequest("first", PROMPT, params), heard, compiler_of(small).guide(params.form))
    core.add(GenerationRequest("second", PROMPT, SamplingParams(max_tokens=5)), heard)
    for _ in range(3):
        core.step(0.0)
    core.end("first", "cancelled")
    core.step(0.0)
    assert heard.last("first").finish_reason == "cancelled"
    assert heard.tokens_now("second") == 1


@pytest.mark.parametrize("question", ["Tell me of Paris.", "Who was Ada Lovelace?", "List two colours."])
def test_the_real_model_keeps_to_a_schema(smol: Engine, question: str) -> None:
    prompt = smol.render_chat([{"role": "user", "content": f"{question} Answer in JSON."}])
    heard = generate(smol, prompt, held(forms.json_schema(PERSON), max_tokens=120))
    assert heard.last("only").finish_reason == "stop"
    jsonschema.validate(json.loads(heard.text("only")), PERSON)
