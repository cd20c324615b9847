"""/v1/completions: prompts that no chat template touches."""

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from manta.messages import ChatChunk, ChatRequest, TokenLogprob, Usage
from manta.protocols import ChatModel
from serve_app.gateway.body_types import WHOLE
from serve_app.gateway.deps import DeskDep, Platform
from serve_app.gateway.errors import BadField
from serve_app.gateway.openai.bodies import MAX_ANSWERS, Completing, TokenId
from serve_app.gateway.openai.frames import frames
from serve_app.gateway.openai.gathering import Gathered, begun, gathered
from serve_app.gateway.openai.logprobs import legacy_logprobs
from serve_app.gateway.openai.routing import ASKING, FINGERPRINT, new_id, now, openai_router
from serve_app.gateway.openai.sources import is_graph
from serve_app.gateway.streaming import EventStream
from serve_app.models.choices import together
from serve_app.openai_wire import usage_to_wire

DEFAULT_TOKENS = 16
"""OpenAI's own."""
MAX_PROMPTS = 128

router = openai_router()
Ids = Annotated[list[TokenId], Field(min_length=1)]
Prompt: TypeAlias = str | list[int]


class CompletionBody(Completing):
    refused = {"suffix": "no model fills in the middle"}

    model: str | None = None
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    """A text, its token ids, or a list of either."""
    best_of: Annotated[int, Field(ge=1, le=MAX_ANSWERS), WHOLE] | None = None
    """As `n`: all that are made are told."""
    logprobs: Annotated[int, Field(ge=0, le=5), WHOLE] | None = None
    echo: bool | None = None
    """Prompts that are texts only, and without `logprobs`."""
    suffix: None = None

    def prompts(self) -> list[Prompt]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def requests(self) -> list[ChatRequest]:
        """One for each prompt. Raises BadField."""
        count = self.n or 1
        if self.best_of not in (None, count):
            raise BadField("best_of is not n", fix="leave best_of out", param="best_of")
        if self.echo and (self.logprobs is not None or any(not isinstance(p, str) for p in self.prompts())):
            raise BadField("only texts are echoed, and without logprobs", fix="leave echo out", param="echo")
        shared = ChatRequest(
            messages=(),
            max_tokens=self.max_tokens or DEFAULT_TOKENS,
            logprobs=self.logprobs,
            n=count,
            response_format=self.form(),
            **self.drawing(),
        )
        return [dataclasses.replace(shared, **_prompted(prompt)) for prompt in self.prompts()]


def _prompted(prompt: Prompt) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else {"prompt_ids": tuple(prompt)}


@router.post("/completions", responses=ASKING)
async def completions(body: CompletionBody, desk: DeskDep) -> Any:
    """One choice for each prompt and each of its `n` answers, those of the first prompt first."""
    requests = [desk.addressed(request) for request in body.requests()]
    name = body.model or desk.platform.default_model
    chunks = _answers(_model(name, desk.platform), requests)
    shapes = CompletionShapes(name, body)
    if not body.stream:
        answers, usage = await gathered(chunks, len(requests) * requests[0].n)
        return shapes.whole(answers, usage)
    return EventStream(frames(await begun(chunks), shapes, body.usage_wanted), chunks)


def _model(name: str, platform: Platform) -> ChatModel:
    if is_graph(name):
        raise BadField(f"{name} is a graph", fix="ask it by /v1/chat/completions", param="model")
    return platform.models.get(name)


async def _answers(model: ChatModel, requests: Sequence[ChatRequest]) -> AsyncGenerator[ChatChunk, None]:
    """The answers to all prompts, numbered through; the last chunk has the usage of all."""
    usages: list[Usage] = []
    async with aclosing(together([model.stream(request) for request in requests])) as chunks:
        async for number, chunk in chunks:
            if chunk.usage is not None:
                usages.append(chunk.usage)
            usage = sum(usages, Usage()) if len(usages) == len(requests) else None
            choice = number * requests[number].n + chunk.choice
            yield dataclasses.replace(chunk, choice=choice, usage=usage)


class CompletionShapes:
    """The objects of one answer to a `CompletionBody`."""

    def __init__(self, model: str, body: CompletionBody) -> None:
        self._head = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": now(),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._logprobs = body.logprobs is not None
        self._pending: dict[str, Any] = {"usage": None} if body.usage_wanted else {}
        self._echoed = [prompt if body.echo and isinstance(prompt, str) else "" for prompt in body.prompts()]
        self._each = body.n or 1
        self._written: dict[int, int] = {}

    def whole(self, answers: Sequence[Gathered], usage: Usage) -> dict[str, Any]:
        choices = [
            self._choice(index, self._echo(index) + answer.text, answer.finish, answer.logprobs)
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "choices": choices, "usage": usage_to_wire(usage)}

    def pieces(self, chunk: ChatChunk) -> list[dict[str, Any]]:
        """The objects of a stream that say what a chunk does; a prompt that is echoed comes first."""
        text = chunk.text if chunk.choice in self._written else self._echo(chunk.choice) + chunk.text
        if not (text or chunk.logprobs or chunk.finish_reason):
            return []
        choice = self._choice(chunk.choice, text, chunk.finish_reason, chunk.logprobs)
        return [{**self._head, "choices": [choice], **self._pending}]

    def last(self, usage: Usage) -> dict[str, Any]:
        """The usage, in an object without choices."""
        return {**self._head, "choices": [], "usage": usage_to_wire(usage)}

    def _echo(self, index: int) -> str:
        return self._echoed[index // self._each]

    def _choice(
        self, index: int, text: str, finish: str | None, tokens: Sequence[TokenLogprob]
    ) -> dict[str, Any]:
        offset = self._written.get(index, 0)
        self._written[index] = offset + len(text)
        logprobs = legacy_logprobs(tokens, offset) if self._logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
