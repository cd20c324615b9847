"""One question to a model, one text back; watchers see it grow."""

from collections.abc import Sequence
from contextlib import aclosing

from manta.messages import ChatMessage, ChatRequest, ModelInfo
from manta.protocols import AgentContext, ChatModel


async def ask(
    context: AgentContext, messages: Sequence[ChatMessage], *, max_tokens: int, stop: tuple[str, ...] = ()
) -> str:
    """The model's whole answer, greedy. Raises ModelError."""
    request = ChatRequest(tuple(messages), model=context.task.model, max_tokens=max_tokens, stop=stop)
    return await answer(context, context.model, request)


async def answer(context: AgentContext, model: ChatModel, request: ChatRequest) -> str:
    """What the model says to a request, without white space around it. Raises ModelError."""
    texts: list[str] = []
    async with aclosing(model.stream(request)) as chunks:
        async for chunk in chunks:
            texts.append(chunk.text)
            if chunk.text:
                context.emit_token(chunk.text)
    return "".join(texts).strip()


def is_weak(info: ModelInfo) -> bool:
    """A model that declares no ability is taken to copy well, to reason badly, and to be short of room."""
    return not info.abilities
