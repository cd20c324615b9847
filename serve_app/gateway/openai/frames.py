"""An answer as OpenAI's stream of objects: the same for chats and completions but for the objects."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from manta.errors import MantaError
from manta.messages import ChatChunk, Usage
from serve_app.gateway.errors import error_body
from serve_app.gateway.openai.routing import DONE, data
from serve_app.gateway.sse import KEEP_ALIVE


class Shapes(Protocol):
    def pieces(self, chunk: ChatChunk) -> list[dict[str, Any]]:
        """The objects that say what a chunk does; none for one that says nothing."""
        ...

    def last(self, usage: Usage) -> dict[str, Any]:
        """The usage, in an object without choices."""
        ...


async def frames(
    chunks: AsyncGenerator[ChatChunk, None], shapes: Shapes, usage_wanted: bool
) -> AsyncGenerator[str, None]:
    """Server-sent events, up to `[DONE]` or to an error."""
    usage = Usage()
    try:
        async for chunk in chunks:
            pieces = shapes.pieces(chunk)
            for piece in pieces:
                yield data(piece)
            if not pieces:
                yield KEEP_ALIVE
            usage = chunk.usage or usage
    except MantaError as error:
        # The status is long sent: the error goes in band, and no [DONE] follows it.
        yield data(error_body("/v1/", error))
        return
    if usage_wanted:
        yield data(shapes.last(usage))
    yield DONE
