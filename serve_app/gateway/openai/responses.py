"""/v1/responses. Only one that works in the background is kept, as the run it is; a conversation is sent whole."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi.responses import JSONResponse, Response

from manta.errors import MantaError
from manta.ids import RunId
from manta.messages import ChatChunk
from serve_app.gateway.deps import DeskDep, IdempotencyKey
from serve_app.gateway.openai import background
from serve_app.gateway.openai.background_shapes import background_response
from serve_app.gateway.openai.gathering import begun, cut_short
from serve_app.gateway.openai.response_body import ResponseBody
from serve_app.gateway.openai.response_shapes import Events, ResponseWriter
from serve_app.gateway.openai.routing import RUNNING, openai_router, run_headers
from serve_app.gateway.openai.sources import answering
from serve_app.gateway.sse import KEEP_ALIVE, frame
from serve_app.gateway.streaming import EventStream

router = openai_router()


@router.post("/responses", responses=RUNNING)
async def create_response(body: ResponseBody, desk: DeskDep, key: IdempotencyKey = None) -> Any:
    """`stream: true` answers with OpenAI's events. Closing the connection ends the work, but of a `background` one.

    The Idempotency-Key is for those: the same key with the same body is the same response.
    """
    request = body.request()
    name = body.model or desk.platform.default_model
    if body.background:
        record = await background.begin(desk, name, request, body.manta, body.echoed(), key)
        kept: Response = JSONResponse(background_response(record))
        if body.stream:
            kept = EventStream(background.frames(desk, record, -1))
        kept.headers.update(run_headers(RunId(record.id)))
        return kept
    source = await answering(desk, name, request, body.manta, body.metadata)
    writer = ResponseWriter(name, source.run, body.echoed(), logprobs=body.logprobs is not None)
    if not body.stream:
        return JSONResponse(await whole_response(source.chunks, writer), headers=run_headers(source.run))
    answer: Response = EventStream(_frames(await begun(source.chunks), writer), source.chunks)
    answer.headers.update(run_headers(source.run))
    return answer


async def whole_response(chunks: AsyncGenerator[ChatChunk, None], writer: ResponseWriter) -> dict[str, Any]:
    """Raises ModelError for an answer without an end."""
    async with aclosing(chunks):
        async for chunk in chunks:
            writer.take(chunk)
    if not writer.finished:
        raise cut_short()
    writer.end()
    return writer.response()


async def _frames(
    chunks: AsyncGenerator[ChatChunk, None], writer: ResponseWriter
) -> AsyncGenerator[str, None]:
    yield _told(writer.begin())
    try:
        async for chunk in chunks:
            yield _told(writer.take(chunk)) or KEEP_ALIVE
        if not writer.finished:
            raise cut_short()
    except MantaError as error:
        # The status is long sent: the error goes in band.
        yield _told(writer.fail(error))
        return
    yield _told(writer.end())


def _told(events: Events) -> str:
    return "".join(frame(event["type"], event) for event in events)
