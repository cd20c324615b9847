"""A model that says what it is told, in the real engine: for tests of how answers are held and read."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as TokenizerFile

from manta.config import ModelSettings
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ToolCall, ToolSpec
from serve_app.backends.call_style import CallStyle
from serve_app.backends.torch_backend import TorchBackend
from serve_app.engine.batch import Segment
from serve_app.engine.bundle import ModelBundle
from serve_app.engine.chat_template import ChatTemplate
from serve_app.engine.engine import Engine, EngineConfig
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.spec import ModelSpec
from serve_app.engine.tokenizer import Tokenizer
from tests.engine.support import small_tokenizer

CALL_MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")
THOUGHT_MARKS = ("<think>", "</think>")
WEATHER = ToolSpec(
    "get_weather",
    "The weather of a city",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 40}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
)
ADD = ToolSpec(
    "add",
    "The sum of two numbers",
    {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}, "b": {"enum": [3]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
)


class Parrot:
    """Its logits want the text `says`, token by token, and then the end. One request at a time."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self.device, self.dtype, self.rows_are_alike = torch.device("cpu"), torch.float32, False
        size = tokenizer.vocab_size
        self.spec = ModelSpec(
            "llama", size, 8, 1, 1, 1, 8, 8, 1e-5, 8192, 1e4, None, True, False, False, False, False
        )
        self.says = ""
        self._tokenizer = tokenizer
        self._end = end
        self._made: list[int] = []
        self._known = 0

    def forward(self, segments: Sequence[Segment], cache: KvCache) -> torch.Tensor:
        (segment,) = segments
        going_on = self._known and segment.position == self._known
        self._made = [*self._made, *segment.tokens] if going_on else []
        self._known = segment.end
        logits = torch.zeros(segment.wanted, self.spec.vocab_size)
        said = self._tokenizer.decode(self._made, skip_special_tokens=False)
        rest = self._tokenizer.encode(self.says[len(said) :])
        logits[:, rest[0] if rest else self._end] = 10.0
        return logits


def marked_tokenizer(folder: Path, marks: Sequence[str], special: Sequence[str]) -> Tokenizer:
    """A small tokenizer with the marks as tokens of their own, some of them special."""
    small_tokenizer(folder)
    file = TokenizerFile.from_file(str(folder / "tokenizer.json"))
    file.add_tokens([AddedToken(mark, normalized=False) for mark in marks if mark not in special])
    file.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in special])
    return Tokenizer(file)


@asynccontextmanager
async def parrot_backend(
    folder: Path, template: str | None, special: Sequence[str] = (), marks: Sequence[str] = CALL_MARKS
) -> AsyncIterator[tuple[TorchBackend, Parrot]]:
    tokenizer = marked_tokenizer(folder, marks, special)
    parrot = Parrot(tokenizer, end=2)
    chat = None if template is None else ChatTemplate(template, {"bos_token": "<s>", "eos_token": "</s>"})
    bundle = ModelBundle("parrot", parrot, tokenizer, chat, frozenset({2}), 8192)
    engine = Engine(bundle, EngineConfig(dtype="float32", max_batch=1, kv_tokens=8192, prefill_chunk=8192))
    engine.start()
    backend = TorchBackend("parrot", ModelSettings())
    backend._engine = engine
    try:
        yield backend, parrot
    finally:
        backend.stop()


def native_text(style: CallStyle, calls: Sequence[tuple[str, str]]) -> str:
    """Calls of (name, arguments as JSON) as a model of that style writes them."""
    written = [style.head.replace("%s", name) + arguments + style.tail for name, arguments in calls]
    return style.marker + style.opening + (style.between or "").join(written) + style.closing


def asking(text: str, *tools: ToolSpec, **more: object) -> ChatRequest:
    given = {"max_tokens": 400, "tools": tools, **more}
    return ChatRequest((ChatMessage("user", text),), **given)  # type: ignore[arg-type]


async def answer(backend: TorchBackend, request: ChatRequest) -> list[ChatChunk]:
    return [chunk async for chunk in backend.stream(request)]


def text_of(chunks: Sequence[ChatChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def thought_of(chunks: Sequence[ChatChunk]) -> str:
    return "".join(chunk.reasoning for chunk in chunks)


def calls_of(chunks: Sequence[ChatChunk]) -> list[ToolCall]:
    return [call for chunk in chunks for call in chunk.tool_calls]
