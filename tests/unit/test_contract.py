"""The values that cross processes survive the crossing; errors arrive as themselves."""

import dataclasses
import inspect
import pickle
import typing
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta import errors, events, messages
from manta.errors import MantaError, error_from_json
from manta.ids import new_run_id
from manta.messages import from_json, to_json


def tree(kind: type[MantaError]) -> list[type[MantaError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]


OURS = [kind for kind in tree(MantaError) if kind.__module__ == "manta.errors"]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickle_and_json(kind: type[MantaError]):
    error = kind("the cause", fix="the fix")
    for copy in (pickle.loads(pickle.dumps(error)), error_from_json(error.to_json())):
        assert type(copy) is kind
        assert (copy.message, copy.fix, copy.code) == ("the cause", "the fix", kind.code)
    assert str(error) == f"{kind.code}: the cause (the fix)"


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in OURS if kind.__name__ not in drawn] == []
    assert len({kind.code for kind in OURS}) == len(OURS)


DATACLASSES = [
    kind
    for module in (messages, events)
    for _, kind in inspect.getmembers(module, dataclasses.is_dataclass)
    if inspect.isclass(kind) and kind.__module__ == module.__name__
]


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of an annotated type of the contract."""
    if isinstance(hint, typing.NewType):
        return st.text(max_size=5)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{f.name: values(hints[f.name]) for f in dataclasses.fields(hint)})
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(values(args[0]), max_size=2).map(tuple)
    if args and type(None) in args:
        return st.none() | values(next(arg for arg in args if arg is not type(None)))
    if origin is dict:
        return st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
    plain = {
        int: st.integers(),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        str: st.text(max_size=5),
    }
    return plain.get(hint, st.none() | st.integers() | st.text(max_size=5))


@pytest.mark.parametrize("kind", DATACLASSES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_message_round_trips(kind: type, data: st.DataObject):
    value = data.draw(values(kind))
    assert from_json(kind, to_json(value)) == value
    assert pickle.loads(pickle.dumps(value)) == value


def test_unknown_fields_of_a_newer_writer_are_ignored():
    assert from_json(messages.Usage, {"input_tokens": 3, "invented_later": 1}).input_tokens == 3


def test_usage_adds_every_field():
    names = [field.name for field in dataclasses.fields(messages.Usage)]
    one = messages.Usage(*range(1, len(names) + 1))
    assert dataclasses.astuple(one + one) == tuple(2 * n for n in range(1, len(names) + 1))


def test_run_ids_are_uuids_of_version_7_and_differ():
    made = [uuid.UUID(new_run_id()) for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}
    assert [one.int >> 80 for one in made] == sorted(one.int >> 80 for one in made)
