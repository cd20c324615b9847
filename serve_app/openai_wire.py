"""Between the OpenAI chat format and Manta's messages: used by the gateway (in) and the remote backend (out)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from manta.errors import InvalidInput
from manta.messages import ChatMessage, ChatRequest, ToolCall, ToolSpec, Usage
from serve_app import strict_json

TOOL_CHOICES = frozenset({"auto", "none", "required"})


def message_to_wire(message: ChatMessage) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [call_to_wire(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        wire["name"] = message.name
    return wire


def call_to_wire(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def message_from_wire(data: Any) -> ChatMessage:
    """Raises InvalidInput for a content part that is not text, and for arguments that are not a JSON object."""
    data = _object(data, "a message")
    role = "system" if data.get("role") == "developer" else data.get("role")
    if role not in ("system", "user", "assistant", "tool"):
        raise InvalidInput(f"unknown role {role!r}", fix="one of system, developer, user, assistant, tool")
    calls = tuple(call_from_wire(call) for call in _list(data.get("tool_calls"), "tool_calls"))
    call_id, name = (_optional_string(data, key) for key in ("tool_call_id", "name"))
    return ChatMessage(role, _text(data.get("content")), calls, call_id, name)  # type: ignore[arg-type]


def call_from_wire(data: Any) -> ToolCall:
    """Raises InvalidInput for a call that is not shaped like one, or whose arguments are not a JSON object."""
    data = _object(data, "a tool call")
    function = _object(data.get("function"), "a tool call's function")
    name, text = _optional_string(function, "name") or "", _optional_string(function, "arguments")
    try:
        arguments = strict_json.loads(text or "{}")
    except InvalidInput as error:
        raise InvalidInput(f"the arguments of {name!r}: {error.message}", fix=error.fix) from None
    if not isinstance(arguments, dict):
        raise InvalidInput(f"the arguments of {name!r} are not a JSON object", fix="encode an object")
    return ToolCall(_optional_string(data, "id") or "", name, arguments)


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{what} must be an object, not {str(value)[:40]!r}", fix="see OpenAI's API")
    return value


def _list(value: Any, what: str) -> Sequence[Any]:
    if value is not None and not isinstance(value, list):
        raise InvalidInput(f"{what} must be a list, not {str(value)[:40]!r}", fix="see OpenAI's API")
    return value or ()


def _optional_string(data: Mapping[str, Any], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{key} must be a string, not {str(value)[:40]!r}", fix="see OpenAI's API")
    return value


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise InvalidInput("only text content is supported", fix="send strings or parts of type text")
    return "".join(str(part.get("text", "")) for part in parts)


def request_to_wire(request: ChatRequest, model: str, stream: bool) -> dict[str, Any]:
    """The body of a call of `/chat/completions`, or of `/completions` where the request has a raw prompt.

    What is at its default is left out, as some servers refuse fields that they do not know.
    """
    raw = list(request.prompt_ids) or request.prompt
    sampling = request.sampling
    optional = {
        "max_tokens": request.max_tokens,
        "top_p": request.top_p if request.top_p != 1 else None,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "n": request.n if request.n > 1 else None,
        "response_format": request.response_format,
        "top_k": sampling.top_k or None,
        "min_p": sampling.min_p or None,
        "repetition_penalty": sampling.repetition_penalty if sampling.repetition_penalty != 1 else None,
        "presence_penalty": sampling.presence_penalty or None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "logit_bias": sampling.logit_bias or None,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
        "ignore_eos": sampling.ignore_eos or None,
        "stream_options": {"include_usage": True} if stream else None,
    }
    chosen = _chat_to_wire(request) if raw is None else {"prompt": raw, "logprobs": request.logprobs}
    wire = {"model": model, "temperature": request.temperature, "stream": stream}
    return wire | {key: value for key, value in (chosen | optional).items() if value is not None}


def _chat_to_wire(request: ChatRequest) -> dict[str, Any]:
    """What only a call with messages has."""
    return {
        "messages": [message_to_wire(message) for message in request.messages],
        "tools": [tool_to_wire(tool) for tool in request.tools] or None,
        "tool_choice": _choice_to_wire(request.tool_choice) if request.tools else None,
        "parallel_tool_calls": False if request.tools and not request.parallel_tool_calls else None,
        "logprobs": None if request.logprobs is None else True,
        "top_logprobs": request.logprobs or None,
    }


def tool_to_wire(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def tools_from_wire(tools: Any) -> tuple[ToolSpec, ...]:
    """Raises InvalidInput for what is not a list of named functions."""
    return tuple(_tool_from_wire(tool) for tool in _list(tools, "tools"))


def _tool_from_wire(data: Any) -> ToolSpec:
    function = _object(_object(data, "a tool").get("function"), "a tool's function")
    name = _optional_string(function, "name")
    if not name:
        raise InvalidInput("a tool has no name", fix="give its function a name")
    parameters = function.get("parameters")
    schema = {"type": "object"} if parameters is None else _object(parameters, f"the parameters of {name!r}")
    return ToolSpec(name, _optional_string(function, "description") or "", dict(schema))


def choice_from_wire(choice: Any, tools: Sequence[ToolSpec]) -> str | None:
    """`auto`, `none` or `required` as they are, a function that must be called by its name.

    Raises:
        InvalidInput: it is none of these, or names a function that is not among the tools.
    """
    if choice is None or (isinstance(choice, str) and choice in TOOL_CHOICES):
        return choice
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or name not in {tool.name for tool in tools}:
        fix = 'auto, none, required, or {"type": "function", "function": {"name": ...}} of one of the tools'
        raise InvalidInput(f"tool_choice cannot be {str(choice)[:80]!r}", fix=fix)
    return name


def _choice_to_wire(choice: str | None) -> str | dict[str, Any] | None:
    if choice is None or choice in TOOL_CHOICES:
        return choice
    return {"type": "function", "function": {"name": choice}}


def usage_to_wire(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def usage_from_wire(data: Mapping[str, Any] | None) -> Usage:
    data = data or {}
    cached = (data.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(data.get("prompt_tokens") or 0, data.get("completion_tokens") or 0, cached, model_calls=1)
