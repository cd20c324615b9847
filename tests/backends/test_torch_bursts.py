"""What the engine made while a piece of an answer was under way goes along with the next one."""

import asyncio

from manta.config import ModelSettings
from manta.messages import ChatMessage, ChatRequest
from serve_app.backends.torch_backend import TorchBackend, _burst
from serve_app.engine.types import EngineOutput


def output(number: int, *, last: bool = False) -> EngineOutput:
    return EngineOutput("r", f"{number} ", (number,), "length" if last else None, 1, number, 0)


async def test_what_is_there_goes_along_and_the_end_waits_for_nobody() -> None:
    outputs: asyncio.Queue[EngineOutput] = asyncio.Queue()
    for number in range(3):
        outputs.put_nowait(output(number))
    past, far = 0.0, asyncio.get_running_loop().time() + 3600
    assert [one.token_ids for one in await _burst(outputs, past)] == [(0,), (1,), (2,)]
    outputs.put_nowait(output(3))
    outputs.put_nowait(output(4, last=True))
    assert [one.token_ids for one in await _burst(outputs, far)] == [(3,), (4,)]


async def test_a_long_interval_gathers_the_answer_behind_its_first_token() -> None:
    request = ChatRequest((ChatMessage("user", "Name five colours."),), max_tokens=24)
    pieces: dict[float, list[str]] = {}
    for interval_s in (0.0, 3600.0):
        backend = TorchBackend("small", ModelSettings(stream_interval_s=interval_s, quantize="int8"))
        backend.start()
        pieces[interval_s] = [chunk.text async for chunk in backend.stream(request)]
        backend.stop()
    assert "".join(pieces[0.0]) == "".join(pieces[3600.0])
    # The first token, and whatever came with it, then all the rest.
    assert len(pieces[3600.0]) == 2 < len(pieces[0.0])
