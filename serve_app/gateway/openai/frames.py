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
    """Server-sent events, up to `[DONE]` or to an error. What is sent together is one text: each costs a way of its
    own through Serve and its proxy.
    """
    usage, held = Usage(), ""
    try:
        async for chunk in chunks:
            told = held + "".join(map(data, shapes.pieces(chunk)))
            # Behind the usage comes but the end, which takes it along. Text waits for nothing.
            held = told if chunk.usage is not None and not chunk.text else ""
            if not held:
                yield told or KEEP_ALIVE
            usage = chunk.usage or usage
    except MantaError as error:
        # The status is long sent: the error goes in band, and no [DONE] follows it.
        yield held + data(error_body("/v1/", error))
        return
    yield held + (data(shapes.last(usage)) if usage_wanted else "") + DONE
