"""Requests told as differences come back whole, whatever they are and in whatever order they are read."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.call_keys import canonical, request_body
from agents.request_deltas import RecentRequests, restore, shorten
from manta.errors import NotFound
from manta.messages import ChatMessage, ChatRequest, ToolCall, ToolSpec

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.0, 1.0, -0.5]), st.text(max_size=3)
)
CALLS = st.builds(ToolCall, st.text(max_size=2), st.just("t"), st.dictionaries(st.sampled_from("ab"), VALUES))
MESSAGES = st.builds(
    ChatMessage,
    st.sampled_from(["user", "assistant"]),
    st.text(max_size=3),
    st.lists(CALLS, max_size=1).map(tuple),
)
TOOLS = st.lists(st.just(ToolSpec("t", "a tool", {"type": "object"})), max_size=1).map(tuple)


@st.composite
def conversations(draw: st.DrawFn) -> list[ChatRequest]:
    """Requests that mostly build on one another: some begin anew, some lose or change messages in between."""
    requests: list[ChatRequest] = []
    for _ in range(draw(st.integers(1, 8))):
        base = draw(st.sampled_from([*requests, ChatRequest(())]))
        messages = [*base.messages, *draw(st.lists(MESSAGES, max_size=3))]
        if messages and draw(st.booleans()):
            place = draw(st.integers(0, len(messages) - 1))
            messages[place : place + 1] = draw(st.lists(MESSAGES, max_size=1))
        requests.append(
            ChatRequest(
                tuple(messages),
                model=draw(st.sampled_from(["", "m"])),
                tools=draw(TOOLS),
                temperature=draw(st.sampled_from([0, 0.0, 1, 0.5])),
                max_tokens=draw(st.sampled_from([None, 5])),
            )
        )
    return requests


@given(conversations(), st.randoms(use_true_random=False))
def test_what_was_told_comes_back_exactly(requests: list[ChatRequest], order: random.Random):
    recent, told, whole = RecentRequests(), {}, {}
    for number, request in enumerate(requests):
        key, body = f"model:{number}", request_body(request)
        told[key] = recent.shorten(body)
        whole[key] = body
        recent.remember(key, body)
    shuffled = dict(order.sample(list(told.items()), len(told)))
    restored = restore(shuffled)
    # As text: 1, 1.0 and true are equal in Python, and three different requests.
    assert {key: canonical(body) for key, body in restored.items()} == {
        key: canonical(body) for key, body in whole.items()
    }


@given(st.lists(MESSAGES, min_size=1, max_size=5), st.lists(MESSAGES, min_size=1, max_size=3))
def test_only_what_a_turn_adds_is_told(before: list[ChatMessage], added: list[ChatMessage]):
    earlier = request_body(ChatRequest(tuple(before)))
    later = request_body(ChatRequest((*before, *added)))
    told = shorten(later, {"first": earlier})
    assert told == {"base": "first", "keep": len(before), "messages": later["messages"][len(before) :]}


@given(st.lists(MESSAGES, min_size=1, max_size=4))
def test_two_requests_are_never_told_by_each_other(messages: list[ChatMessage]):
    one = request_body(ChatRequest(tuple(messages)))
    other = request_body(ChatRequest(tuple(messages), temperature=0.5))
    assert shorten(one, {"other": other}) == one
    assert shorten(other, {"one": one}) == other


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), (0.0, False)])
def test_what_python_takes_for_equal_is_told_apart(one: Any, other: Any):
    def asked(value: Any, count: int) -> dict[str, Any]:
        call = ToolCall("c", "t", {"x": value})
        return request_body(ChatRequest((ChatMessage("assistant", "", (call,)),) * count, temperature=value))

    earlier, later = asked(one, 1), asked(other, 2)
    told = shorten(later, {"a": earlier})
    assert canonical(restore({"a": earlier, "b": told})["b"]) == canonical(later)


def test_the_base_with_most_in_common_is_taken():
    def asked(*texts: str, **fields: Any) -> dict[str, Any]:
        return request_body(ChatRequest(tuple(ChatMessage("user", text) for text in texts), **fields))

    earlier = {"a": asked("x"), "b": asked("x", "y"), "c": asked("z", "y")}
    told = shorten(asked("x", "y", "w", temperature=0.5), earlier)
    assert (told["base"], told["keep"], told["set"]) == ("b", 2, {"temperature": 0.5})


def test_a_tools_request_stays_as_it_is():
    request = {"name": "search", "arguments": {"q": "x"}}
    assert restore({"tool:1": request}) == {"tool:1": request}


def test_fields_that_a_newer_version_has_or_lacks_are_told_too():
    body = request_body(ChatRequest((ChatMessage("user", "a"),)))
    later = {**body, "messages": body["messages"] * 2, "new": [1]}
    del later["seed"]
    told = shorten(later, {"a": body})
    assert restore({"b": told, "a": body})["b"] == later


@pytest.mark.parametrize("requests", [{"b": {"base": "a"}}, {"a": {"base": "b"}, "b": {"base": "a"}}])
def test_a_record_that_is_not_whole_is_refused(requests: dict[str, Any]):
    told = {key: {"keep": 1, "messages": [], **request} for key, request in requests.items()}
    with pytest.raises(NotFound) as caught:
        restore(told)
    assert caught.value.code == "request_lost"


def test_a_long_loop_is_restored_in_any_order():
    told: dict[str, Any] = {"k1": {"messages": [1]}}
    for number in range(2, 3000):
        told[f"k{number}"] = {"base": f"k{number - 1}", "keep": number - 1, "messages": [number]}
    restored = restore(dict(reversed(told.items())))
    assert restored["k2999"]["messages"] == list(range(1, 3000))
