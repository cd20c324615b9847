"""References: what they become, what they name, what is wrong with them."""

from typing import Any

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.errors import StepError
from manta.expressions import expression
from manta.references import compile_expression, expressions, names_in, resolve, steps_in

SCOPE = {
    "input": {"n": 3, "list": [1, {"a": "b"}], "none": None, "text": "hi"},
    "steps": {"a": {"b": [1, 2]}},
}


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("${input.n}", 3),
        ("${input.list}", [1, {"a": "b"}]),
        ("n=${input.n} l=${input.list} x=${input.none}", 'n=3 l=[1, {"a": "b"}] x='),
        ({"deep": ["${input.n}", ("${input.text}",)], "plain": 1}, {"deep": [3, ["hi"]], "plain": 1}),
        ("${input.nothing.at.all}", None),
        ("${input.n.of.a.number}", None),
        ("${input.list[1].a}", "b"),
        ("${input.list[]}", [1, {"a": "b"}]),
        ("${steps.a.b | sum(@)}", 3),
        ("${steps.a.b[?@ > `1`] | [0]}", 2),
        # JMESPath has braces of its own, and quotes that may hold one.
        ("${input.{number: n, word: text}}", {"number": 3, "word": "hi"}),
        ("${ {a: {b: {c: input.n}}} }", {"a": {"b": {"c": 3}}}),
        ("${join('}', ['a', 'b'])}", "a}b"),
        ("${input.text || '${'}", "hi"),
        ("it's ${input.text}, isn't it", "it's hi, isn't it"),
        # What is no reference.
        ("$${input.n} costs $3 {input.n}", "${input.n} costs $3 {input.n}"),
        ("$${x}${input.n}", "${x}3"),
        ("", ""),
        (7, 7),
    ],
)
def test_a_template_is_filled_in(template: Any, value: Any):
    assert resolve(template, SCOPE) == value


@pytest.mark.parametrize(
    "inner", ["abs(input.text)", "input.n < 'x'", "sum(input.list)", "steps.a.b[::`0`]", "nope()"]
)
def test_a_reference_that_does_not_fit_the_values_says_so(inner: str):
    with pytest.raises(StepError) as refused:
        resolve(f"${{{inner}}}", SCOPE)
    assert refused.value.code == "bad_reference"
    assert not refused.value.retryable


@pytest.mark.parametrize("template", ["${input.x", "a ${input.it's} b", "${a ${input.x}"])
def test_a_reference_has_to_be_closed(template: str):
    with pytest.raises(ValueError, match="is not closed"):
        list(expressions({"x": [template]}))


def test_references_are_found_wherever_they_are():
    template = {"a": ["${input.x} and ${steps.b.c}"], "b": {"c": "${item}"}, "d": 1, "e": "$${f}"}
    assert list(expressions(template)) == ["input.x", "steps.b.c", "item"]


@pytest.mark.parametrize(
    ("text", "names", "steps"),
    [
        ("input.x", {"input"}, ()),
        ("steps.a.b || steps.c[0].d", {"steps"}, ("a", "c")),
        ('steps . a . b || steps."c"', {"steps"}, ("a", "c")),
        ("join(',', steps.a[?ok && steps.b].c)", {"steps"}, ("a",)),
        ("sort_by(steps.a, &steps.b)", {"steps"}, ("a",)),
        ("[item, {x: steps.a[].b}]", {"item", "steps"}, ("a",)),
        ("input.steps.a", {"input"}, ()),
        ("'steps.a'", set(), ()),
        ("!(steps.a) && steps.b == `1`", {"steps"}, ("a", "b")),
        ("steps.a[1:3].b | [0]", {"steps"}, ("a",)),
        ("steps.a.*.b", {"steps"}, ("a",)),
    ],
)
def test_what_an_expression_names(text: str, names: set[str], steps: tuple[str, ...]):
    assert names_in(text) == names
    assert steps_in(text) == steps
    compile_expression(text, "here", names)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("steps.", "here: ${steps.} is not JMESPath"),
        ("steps", "a step's id behind it"),
        ("steps.*", "a step's id behind it"),
        ("[steps][0].a", "a step's id behind it"),
        ("steps | a", "a step's id behind it"),
        ("@", "names everything at once"),
        ("*", "names everything at once"),
        ("@.steps.a", "names everything at once"),
        ("!input.x", "write `!(…)`"),
        ("input.y[?!a.b]", "write `!(…)`"),
        ("other.x", "here: ${other.x}: there is no 'other' here; there are input, steps"),
    ],
)
def test_what_is_wrong_with_an_expression(text: str, cause: str):
    with pytest.raises(ValueError) as refused:
        compile_expression(text, "here", {"input", "steps"})
    assert cause in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.dictionaries(st.sampled_from("abc"), JSON)
)
def test_the_short_way_for_plain_paths_leads_where_jmespath_goes(path: list[str], scope: dict[str, Any]):
    text = ".".join(path)
    assert expression(text).search(scope) == jmespath.search(text, scope)
