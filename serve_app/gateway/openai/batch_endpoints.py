"""What a batch can ask: a body of each route, read as the route reads it, and its answer as the route gives it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from manta.messages import Usage
from manta.protocols import ChatModel
from serve_app.gateway.errors import BadField, bad_body
from serve_app.gateway.openai.bodies import RunOptions
from serve_app.gateway.openai.chat import ChatBody
from serve_app.gateway.openai.chat_shapes import ChatShapes
from serve_app.gateway.openai.completions import CompletionBody, CompletionShapes
from serve_app.gateway.openai.gathering import Gathered, gathered
from serve_app.gateway.openai.response_body import ResponseBody
from serve_app.gateway.openai.response_shapes import ResponseWriter
from serve_app.gateway.openai.responses import whole_response
from serve_app.gateway.openai.sources import is_graph

B = TypeVar("B", bound=BaseModel)
Models: TypeAlias = Callable[[str], ChatModel]
"""The model of a name; one that gives several answers where they are asked for. Raises NotFound."""


async def _chat(told: Any, models: Models, default: str) -> dict[str, Any]:
    body = _read(ChatBody, told)
    name = _model_name(body.model, body.manta, body.stream, default)
    request = body.request()
    shapes = ChatShapes(name, None, logprobs=bool(body.logprobs), usage=False)
    return shapes.whole(*await gathered(models(name).stream(request), request.n))


async def _completion(told: Any, models: Models, default: str) -> dict[str, Any]:
    body = _read(CompletionBody, told)
    name = _model_name(body.model, None, body.stream, default)
    answers: list[Gathered] = []
    total = Usage()
    for request in body.requests():
        found, usage = await gathered(models(name).stream(request), request.n)
        answers, total = answers + found, total + usage
    return CompletionShapes(name, body).whole(answers, total)


async def _response(told: Any, models: Models, default: str) -> dict[str, Any]:
    body = _read(ResponseBody, told)
    name = _model_name(body.model, body.manta, body.stream, default)
    if body.background:
        raise BadField("a batch is in the background", fix="leave background out", param="background")
    writer = ResponseWriter(name, None, body.echoed(), logprobs=body.logprobs is not None)
    return await whole_response(models(name).stream(body.request()), writer)


ENDPOINTS: Mapping[str, Callable[[Any, Models, str], Awaitable[dict[str, Any]]]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
}
"""Each takes a body, the models, and the name of the model that is asked where the body names none.

Each raises what its route would answer as an error.
"""


def _read(kind: type[B], told: Any) -> B:
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        told_of = [{**found, "loc": ("body", *found["loc"])} for found in error.errors()]
        raise bad_body(told_of) from None


def _model_name(model: str | None, options: RunOptions | None, stream: bool | None, default: str) -> str:
    name = model or default
    if stream:
        raise BadField("an answer in a file is whole", fix="leave stream out", param="stream")
    if is_graph(name):
        raise BadField(f"{name} is a graph", fix="start its runs by POST /runs", param="model")
    if options is not None:
        raise BadField(f"{name} is a model, not a graph", fix="leave manta out", param="manta")
    return name
