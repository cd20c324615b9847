"""JSON Schemas, for the OpenAPI document, of what is read by hand."""

from typing import Any

_MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}
_FUNCTION_CALL: dict[str, Any] = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "id": _MAYBE_TEXT,
        "function": {
            "type": "object",
            "properties": {
                "name": _MAYBE_TEXT,
                "arguments": {"type": "string", "description": "A JSON object."},
            },
        },
    },
}
_TEXT_PART: dict[str, Any] = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
_CHAT_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [_MAYBE_TEXT, {"type": "array", "items": _TEXT_PART}]},
        "name": _MAYBE_TEXT,
        "tool_call_id": _MAYBE_TEXT,
        "tool_calls": {"anyOf": [{"type": "null"}, {"type": "array", "items": _FUNCTION_CALL}]},
    },
}
_FUNCTION: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "description": _MAYBE_TEXT,
        "parameters": {"type": ["object", "null"], "description": "A JSON Schema."},
    },
}
_NAMED: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "description": "Of one of the tools."}},
}
_WORDS: dict[str, Any] = {"enum": [None, "auto", "none", "required"]}
_MODE: dict[str, Any] = {"enum": ["auto", "required"]}


def _allowed(tools: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["mode", "tools"],
        "properties": {"mode": _MODE, "tools": {"type": "array", "minItems": 1, "items": tools}},
    }


def _array(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def _within(name: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "required": [name, *more], "properties": {name: schema, **more}}


CHAT_MESSAGES = _array(_CHAT_MESSAGE, minItems=1)
CHAT_TOOLS = _array(_within("function", _FUNCTION))
CHAT_TOOL_CHOICE: dict[str, Any] = {
    "anyOf": [
        _WORDS,
        _within("function", _NAMED),
        _within("allowed_tools", _allowed(_within("function", _NAMED)), type={"const": "allowed_tools"}),
    ]
}

_INPUT_PART: dict[str, Any] = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"enum": ["input_text", "output_text", "text"]}, "text": {"type": "string"}},
}
_CONTENT: dict[str, Any] = {"anyOf": [{"type": "string"}, _array(_INPUT_PART)]}


def _item(kind: str, *required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", *required],
        "properties": {"type": {"const": kind}, **properties},
    }


_ITEMS: dict[str, Any] = {
    "anyOf": [
        _item(
            "message",
            "role",
            "content",
            role={"enum": ["user", "assistant", "system", "developer"]},
            content=_CONTENT,
        ),
        _item(
            "function_call",
            "call_id",
            "name",
            "arguments",
            call_id={"type": "string"},
            name={"type": "string"},
            arguments={"type": "string", "description": "A JSON object."},
        ),
        _item("function_call_output", "call_id", "output", call_id={"type": "string"}, output=_CONTENT),
        _item("reasoning"),
    ]
}
RESPONSE_INPUT: dict[str, Any] = {"anyOf": [{"type": "string"}, _array(_ITEMS, minItems=1)]}
RESPONSE_TOOLS = _array(
    {
        **_FUNCTION,
        "required": ["type", "name"],
        "properties": {"type": {"const": "function"}, **_FUNCTION["properties"]},
    }
)
RESPONSE_TOOL_CHOICE: dict[str, Any] = {
    "anyOf": [
        _WORDS,
        _item("function", "name", **_NAMED["properties"]),
        {
            **_allowed(_NAMED),
            "required": ["type", "mode", "tools"],
            "properties": {"type": {"const": "allowed_tools"}, **_allowed(_NAMED)["properties"]},
        },
    ]
}
