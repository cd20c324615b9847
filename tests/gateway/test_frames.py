"""OpenAI's stream of objects: what is sent together, and that an error keeps what was said before it."""

import json
from collections.abc import AsyncGenerator

from manta.errors import Unavailable
from manta.messages import ChatChunk, Usage
from serve_app.gateway.openai.chat_shapes import ChatShapes
from serve_app.gateway.openai.frames import frames
from serve_app.gateway.sse import KEEP_ALIVE

LAST = ChatChunk(finish_reason="stop", usage=Usage(3, 2))


async def sent(*chunks: ChatChunk | Exception, usage: bool = False) -> list[str]:
    async def source() -> AsyncGenerator[ChatChunk, None]:
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    shapes = ChatShapes("m", None, logprobs=False, usage=usage)
    return [text async for text in frames(source(), shapes, usage)]


def read(texts: list[str]) -> list[object]:
    """The data of every event; `[DONE]` as it is."""
    events = [event.removeprefix("data: ") for text in texts for event in text.split("\n\n") if event]
    return [event if event.startswith(("[", ":")) else json.loads(event) for event in events]


async def test_each_chunk_is_one_text_and_the_end_goes_with_the_last() -> None:
    texts = await sent(ChatChunk("one "), ChatChunk("two"), LAST, usage=True)
    assert len(texts) == 3
    role, one, two, finish, usage, done = read(texts)
    assert [e["choices"][0]["delta"] for e in (role, one, two)] == [  # type: ignore[index]
        {"role": "assistant", "content": ""},
        {"content": "one "},
        {"content": "two"},
    ]
    assert finish["choices"][0]["finish_reason"] == "stop"  # type: ignore[index]
    assert usage["usage"]["completion_tokens"] == 2  # type: ignore[index]
    assert done == "[DONE]"


async def test_text_waits_for_nothing() -> None:
    last = ChatChunk("two", finish_reason="stop", usage=Usage(3, 2))
    texts = await sent(ChatChunk("one "), last)
    assert [('"content": "one "' in text, '"content": "two"' in text) for text in texts] == [
        (True, False),
        (False, True),
        (False, False),
    ]


async def test_a_chunk_that_says_nothing_is_a_comment() -> None:
    texts = await sent(ChatChunk("one "), ChatChunk(), LAST)
    assert texts[1] == KEEP_ALIVE


async def test_an_error_comes_behind_what_was_said_and_nothing_behind_it() -> None:
    for before in (ChatChunk("one "), LAST):
        texts = await sent(ChatChunk("zero "), before, Unavailable("gone", fix="wait"), usage=True)
        events = read(texts)
        assert "error" in events[-1]  # type: ignore[operator]
        assert len(events) == 4


async def test_an_end_without_a_usage_is_an_end() -> None:
    assert read(await sent(ChatChunk("one ")))[-1] == "[DONE]"
