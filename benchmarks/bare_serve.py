"""The peer of the gateway: a Serve ingress that does the least that answers in OpenAI's shape.

No keys, no limits, no checks beyond JSON: it asks the same replicas by the same kind of handle.
"""

import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve

from manta.messages import ChatChunk, ChatMessage, ChatRequest, Usage
from serve_app.models.deployment import DEPLOYMENT

BARE_APP = "bare"
PREFIX = "/bare"


def bare_application(apps: Mapping[str, str]) -> serve.Application:
    """With the gateway's own options. `apps`: the Serve application of each model."""

    def build() -> Any:
        return build_bare(apps)

    ingress: Any = serve.ingress(build)()
    deployment: Any = serve.deployment(
        name="bare", max_ongoing_requests=4096, ray_actor_options={"num_cpus": 0.1}
    )
    bound: serve.Application = deployment(ingress).bind()
    return bound


def build_bare(apps: Mapping[str, str]) -> FastAPI:
    api = FastAPI()
    handles: dict[str, Any] = {}

    def replicas(model: str) -> Any:
        if model not in handles:
            handle = serve.get_deployment_handle(DEPLOYMENT, app_name=apps[model])
            handles[model] = handle.options(stream=True)
        return handles[model]

    async def chat(request: Request) -> Response:
        body = await request.json()
        messages = tuple(ChatMessage(message["role"], message["content"]) for message in body["messages"])
        chunks = replicas(body["model"]).stream.remote(ChatRequest(messages, max_tokens=body["max_tokens"]))
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body["model"]}
        if body.get("stream"):
            return StreamingResponse(_frames(head, chunks), media_type="text/event-stream")
        return JSONResponse(await _whole(head, chunks))

    api.add_api_route("/v1/chat/completions", chat, methods=["POST"], response_model=None)
    return api


async def _whole(head: dict[str, Any], chunks: Any) -> dict[str, Any]:
    text, finish, usage = "", None, Usage()
    async for chunk in chunks:
        text, finish = text + chunk.text, chunk.finish_reason or finish
        usage = chunk.usage or usage
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(usage)}


async def _frames(head: dict[str, Any], chunks: Any) -> AsyncGenerator[str, None]:
    head = {**head, "object": "chat.completion.chunk"}
    usage = Usage()
    chunk: ChatChunk
    async for chunk in chunks:
        delta = {"content": chunk.text} if chunk.text else {}
        choice = {"index": 0, "delta": delta, "finish_reason": chunk.finish_reason}
        yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
        usage = chunk.usage or usage
    yield f"data: {json.dumps({**head, 'choices': [], 'usage': _usage(usage)})}\n\n"
    yield "data: [DONE]\n\n"


def _usage(usage: Usage) -> dict[str, int]:
    total = usage.input_tokens + usage.output_tokens
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": total,
    }
