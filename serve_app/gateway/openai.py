"""Models in the shapes of OpenAI's API."""

import base64
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from manta.errors import MantaError, ModelError
from manta.messages import ChatChunk, ChatRequest, ToolCall, Usage
from manta.protocols import ChatModel
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.body_types import WHOLE
from serve_app.gateway.deps import PlatformDep
from serve_app.gateway.errors import OpenAIErrorJson, declared, error_body
from serve_app.gateway.streaming import EventStream
from serve_app.openai_wire import (
    call_to_wire,
    choice_from_wire,
    message_from_wire,
    tools_from_wire,
    usage_to_wire,
)

EMBEDDING_MODEL = "all-minilm-l6-v2"
MAX_INPUTS = 2048

router = APIRouter(
    prefix="/v1",
    tags=["openai"],
    route_class=StrictRoute,
    responses=declared(400, 403, 404, 429, 503, shape=OpenAIErrorJson),
)
_TAKING = declared(413, 415, shape=OpenAIErrorJson)
_ASKING = {**_TAKING, **declared(502, 504, shape=OpenAIErrorJson)}

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
_MESSAGE: dict[str, Any] = {
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
_TOOL: dict[str, Any] = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1},
                "description": _MAYBE_TEXT,
                "parameters": {"type": ["object", "null"]},
            },
        }
    },
}


_TOOL_CHOICE: dict[str, Any] = {
    "anyOf": [
        {"enum": [None, "auto", "none", "required"]},
        {
            "type": "object",
            "required": ["function"],
            "properties": {
                "function": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string", "description": "Of one of the tools."}},
                }
            },
        },
    ]
}
Tokens = Annotated[int, Field(ge=1, lt=1 << 31), WHOLE]
NoEmptyText = Annotated[str, Field(min_length=1)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool | None = None


class ChatBody(BaseModel):
    """The fields Manta acts on; others are accepted and ignored, as OpenAI's own servers do with many.

    A null is as good as nothing, as there too.
    """

    model_config = ConfigDict(extra="ignore", strict=True)
    model: str | None = None
    messages: Annotated[
        list[dict[str, Any]],
        Field(min_length=1),
        WithJsonSchema({"type": "array", "minItems": 1, "items": _MESSAGE}),
    ]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63), WHOLE] | None = None
    n: Literal[1] | None = None
    tools: Annotated[list[dict[str, Any]], WithJsonSchema({"type": "array", "items": _TOOL})] | None = None
    tool_choice: Annotated[Any, WithJsonSchema(_TOOL_CHOICE)] = None
    response_format: dict[str, Any] | None = None


class EmbeddingBody(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    model: str = EMBEDDING_MODEL
    input: NoEmptyText | Annotated[list[NoEmptyText], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] = "float"


@router.get("/models")
async def list_models(platform: PlatformDep) -> dict[str, Any]:
    names = [*platform.models.names, EMBEDDING_MODEL]
    return {"object": "list", "data": [_model(name) for name in names]}


@router.get("/models/{name:path}")
async def get_model(name: str, platform: PlatformDep) -> dict[str, Any]:
    if name != EMBEDDING_MODEL:
        platform.models.get(name)
    return _model(name)


@router.post("/chat/completions", responses=_ASKING)
async def chat_completions(body: ChatBody, platform: PlatformDep) -> Any:
    name = body.model or platform.default_model
    model = platform.models.get(name)
    request = _request(body)
    answer = _Answer(name)
    if not body.stream:
        return await _whole(model, request, answer)
    chunks = model.stream(request)
    # The first chunk before the headers: what fails until then is still an honest status code.
    first = await anext(chunks, None)
    if first is None:
        raise _cut_short()
    usage_wanted = body.stream_options is not None and bool(body.stream_options.include_usage)
    return EventStream(_streamed(first, chunks, answer, usage_wanted), chunks)


@router.post("/embeddings", responses=_ASKING)
async def embeddings(body: EmbeddingBody, platform: PlatformDep) -> dict[str, Any]:
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors, tokens = await platform.embedder.embed_counted(texts)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": EMBEDDING_MODEL,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


class _Answer:
    """What all pieces of one completion share."""

    def __init__(self, model: str) -> None:
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def chunk(self, delta: dict[str, Any], finish: str | None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self.head, "object": "chat.completion.chunk", "choices": [choice], **more}

    def whole(self, text: str, calls: tuple[ToolCall, ...], finish: str, usage: Usage) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message["tool_calls"] = [call_to_wire(call) for call in calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self.head, "object": "chat.completion", "choices": [choice], "usage": usage_to_wire(usage)}


def _request(body: ChatBody) -> ChatRequest:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    tools = tools_from_wire(body.tools)
    return ChatRequest(
        messages=tuple(message_from_wire(message) for message in body.messages),
        tools=tools,
        tool_choice=choice_from_wire(body.tool_choice, tools),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=stop,
        seed=body.seed,
        response_format=body.response_format,
    )


async def _whole(model: ChatModel, request: ChatRequest, answer: _Answer) -> dict[str, Any]:
    text, calls, last = "", (), ChatChunk()  # type: str, tuple[ToolCall, ...], ChatChunk
    async with aclosing(model.stream(request)) as chunks:
        async for chunk in chunks:
            text += chunk.text
            calls += chunk.tool_calls
            last = chunk
    if last.finish_reason is None:
        raise _cut_short()
    return answer.whole(text, calls, last.finish_reason, last.usage or Usage())


def _cut_short() -> ModelError:
    return ModelError("the model's answer ended before its end", fix="try again")


async def _streamed(
    first: ChatChunk, chunks: AsyncGenerator[ChatChunk, None], answer: _Answer, usage_wanted: bool
) -> AsyncGenerator[str, None]:
    nothing = {"usage": None} if usage_wanted else {}
    usage = Usage()
    try:
        yield _data(answer.chunk({"role": "assistant", "content": ""}, None, **nothing))
        chunk: ChatChunk | None = first
        while chunk is not None:
            delta: dict[str, Any] = {"content": chunk.text} if chunk.text else {}
            if chunk.tool_calls:
                delta["tool_calls"] = [
                    {"index": i, **call_to_wire(c)} for i, c in enumerate(chunk.tool_calls)
                ]
            if delta or chunk.finish_reason:
                yield _data(answer.chunk(delta, chunk.finish_reason, **nothing))
            usage = chunk.usage or usage
            chunk = await anext(chunks, None)
    except MantaError as error:
        # The status is long sent: the error goes in band, and no [DONE] follows it.
        yield _data(error_body("/v1/", error))
        return
    finally:
        await chunks.aclose()
    if usage_wanted:
        last = {
            **answer.head,
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": usage_to_wire(usage),
        }
        yield _data(last)
    yield "data: [DONE]\n\n"


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _encoded(vector: list[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "manta"}
