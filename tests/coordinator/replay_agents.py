"""Agents whose runs are recorded and replayed; their options play the part of changed code."""

import asyncio
from typing import Any

from agents.base import AgentSetup
from manta.errors import ToolError
from manta.messages import ChatMessage, ChatRequest
from manta.protocols import AgentContext

ran: list[str] = []
"""Tools that really ran in this process."""


async def ask(context: AgentContext, *messages: ChatMessage, **fields: Any) -> str:
    request = ChatRequest(messages, **fields)
    return "".join([chunk.text async for chunk in context.model.stream(request)])


async def use(context: AgentContext, name: str, **arguments: Any) -> Any:
    async def run() -> Any:
        ran.append(name)
        if arguments.get("fails"):
            raise ToolError(f"{name} failed", code="no_luck")
        return {"tool": name, **arguments}

    return await context.call_tool(name, arguments, run)


class Asker:
    """Looks at the model, counts, and asks it once, or twice if told to."""

    def __init__(self, setup: AgentSetup) -> None:
        self._options = setup.options

    async def run(self, context: AgentContext) -> Any:
        words = self._options.get("words", "Tell me of")
        question = ChatMessage("user", f"{words} {context.task.input['topic']}.")
        info = await context.model.info()
        tokens = await context.model.count_tokens((question,))
        answers = [await ask(context, question, max_tokens=self._options.get("max_tokens", 50))]
        if self._options.get("twice"):
            answers.append(await ask(context, question, max_tokens=50))
        spent = context.task.spent + context.usage
        return {
            "text": " ".join(answers) + self._options.get("end", ""),
            "window": info.context_window,
            "tokens": tokens,
            "calls": spent.model_calls,
        }


class Looper:
    """A conversation of so many turns, with a tool after each; a failing tool is told to the model."""

    def __init__(self, setup: AgentSetup) -> None:
        self._options = setup.options

    async def run(self, context: AgentContext) -> list[str]:
        messages = [ChatMessage("system", self._options.get("system", "Be brief."))]
        for turn in range(context.task.input["turns"]):
            messages.append(ChatMessage("user", f"turn {turn}"))
            messages.append(ChatMessage("assistant", await ask(context, *messages)))
            if turn == self._options.get("skip_tool_of", -1):
                continue
            try:
                result = str(await use(context, "look", turn=turn, fails=turn == 1))
            except ToolError as error:
                result = str(error)
            messages.append(ChatMessage("tool", result, tool_call_id=str(turn)))
        return [message.content for message in messages if message.role == "assistant"]


class Gatherer:
    """Tools side by side."""

    def __init__(self, setup: AgentSetup) -> None:
        self._options = setup.options

    async def run(self, context: AgentContext) -> Any:
        names = list(context.task.input["names"])
        if self._options.get("reverse"):
            names.reverse()
        found = await asyncio.gather(*(use(context, name) for name in names))
        return sorted(one["tool"] for one in found)


class Failing:
    """Asks, then fails, by a defect or with what its options say."""

    def __init__(self, setup: AgentSetup) -> None:
        self._options = setup.options

    async def run(self, context: AgentContext) -> Any:
        await ask(context, ChatMessage("user", "before"))
        if self._options.get("mended"):
            return "fine"
        raise ValueError(self._options.get("error", "a defect"))


def shout(text: str) -> str:
    """What a `call` step does."""
    return text.upper()
