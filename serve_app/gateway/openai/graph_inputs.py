"""A graph asked like a model: its input from the messages, its text from what it gives back. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from manta.graph import Graph
from manta.messages import ChatMessage, ChatRequest
from serve_app.gateway.errors import BadField

GRAPH_PREFIX = "manta/"
_MORE = 'send them as "manta": {"input": {...}}'


def check_request(graph: Graph, request: ChatRequest) -> None:
    """Raises BadField for what only a model can do; how tokens are drawn is the graph's own business."""
    asked = {
        "n": request.n > 1,
        "tools": bool(request.tools),
        "response_format": request.response_format is not None,
        "logprobs": request.logprobs is not None,
    }
    for name, there in asked.items():
        if there:
            raise BadField(
                f"{graph.name} is a graph, and takes no {name}",
                fix="leave it out, or ask a model",
                code="unsupported_parameter",
                param=name,
            )


def graph_input(graph: Graph, messages: Sequence[ChatMessage], given: Mapping[str, Any]) -> dict[str, Any]:
    """What `given` says, and the messages as the graph declares to take them.

    A graph that takes `messages` gets the conversation, one that takes a `question` the user's last message, one
    that declares nothing both.

    Raises:
        BadField: it declares neither, and nothing was given; or there is no message of the user's.
    """
    schema = graph.input_schema
    names = {*schema.get("properties", {}), *schema.get("required", [])}
    told: dict[str, Any] = {}
    if graph.chat or "messages" in names or not schema:
        told["messages"] = [{"role": m.role, "content": m.content} for m in messages]
    if ("question" in names and "messages" not in told) or not schema:
        told["question"] = _question(messages)
    if not told and not given:
        needed = ", ".join(sorted(names)) or "another input"
        raise BadField(
            f"graph {graph.name} takes no question and no messages; it takes: {needed}",
            fix=_MORE,
            param="manta.input",
        )
    return {**told, **given}


def _question(messages: Sequence[ChatMessage]) -> str:
    for message in reversed(messages):
        if message.role == "user":
            return message.content
    raise BadField("there is no message of the user's", fix="send one", param="messages")


def does_not_fit(message: str) -> BadField:
    """The graph's schema refuses the input."""
    return BadField(message, fix=_MORE, param="manta.input")


def output_text(output: Any) -> str:
    """What a person would read of a graph's output: a report's Markdown, an answer, a chat's reply, else its JSON."""
    if isinstance(output, str):
        return output
    if isinstance(output, Mapping):
        for name in ("markdown", "answer", "output"):
            if isinstance(output.get(name), str):
                return str(output[name])
        said = [m.get("content") for m in output.get("messages") or [] if isinstance(m, Mapping)]
        if said and isinstance(said[-1], str):
            return said[-1]
    return json.dumps(output, ensure_ascii=False, indent=2)
