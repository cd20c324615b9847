"""What a tool does not name is no argument of it."""

from serve_app.backends.closed_schema import closed


def test_objects_that_name_their_properties_are_closed() -> None:
    inner = {"type": "object", "properties": {"x": {"type": "integer"}}}
    schema = {
        "type": "object",
        "properties": {"place": inner, "many": {"type": "array", "items": inner}, "one": {"anyOf": [inner]}},
        "$defs": {"place": inner},
    }
    shut = {**inner, "additionalProperties": False}
    assert closed(schema) == {
        "type": "object",
        "properties": {"place": shut, "many": {"type": "array", "items": shut}, "one": {"anyOf": [shut]}},
        "$defs": {"place": shut},
        "additionalProperties": False,
    }


def test_what_was_said_stays_and_open_objects_stay_open() -> None:
    for schema in (
        {"type": "object"},
        {"type": "object", "properties": {}, "additionalProperties": True},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}], "properties": {"c": {}}},
    ):
        assert closed(schema) == schema
