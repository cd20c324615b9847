"""What stands around an agent's model and tool calls: budgets, the fit to the window, recorded tools.

One set of middleware serves one agent loop: the budgets count in it.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.agents.middleware.types import AgentState, ToolCallRequest
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from agents.langchain_messages import to_manta
from manta.errors import BudgetExceeded, ToolError
from manta.messages import ChatMessage, to_json
from manta.protocols import AgentContext, ChatModel
from tools.toolbox import Toolbox

OMITTED = "[left out: this result no longer fits]"
# A result shorter than this is kept rather than cut.
_LEAST_CHARS = 200

ModelHandler = Callable[[ModelRequest[None]], Awaitable[ModelResponse[Any]]]
ToolHandler = Callable[[ToolCallRequest], Awaitable[Any]]


class _Middleware(AgentMiddleware[AgentState[Any], None, Any]):
    """Our middleware's common base: async only."""


class ModelBudget(_Middleware):
    """Limits the model calls of a loop. The last one allowed gets no tools, so that it must answer."""

    def __init__(self, max_calls: int) -> None:
        super().__init__()
        self._max_calls = max_calls
        self._calls = 0

    async def awrap_model_call(
        self, request: ModelRequest[None], handler: ModelHandler
    ) -> ModelResponse[Any]:
        self._calls += 1
        if self._calls > self._max_calls:
            raise BudgetExceeded(
                f"the agent made {self._max_calls} model calls without an answer", fix="raise max_steps"
            )
        if self._calls == self._max_calls:
            request = request.override(tools=[])
        return await handler(request)


class LookFirst(_Middleware):
    """The first answer of a loop must be a tool call: who may choose might answer from memory."""

    def __init__(self) -> None:
        super().__init__()
        self._looked = False

    async def awrap_model_call(
        self, request: ModelRequest[None], handler: ModelHandler
    ) -> ModelResponse[Any]:
        if not self._looked and request.tools:
            request = request.override(tool_choice="any")
        self._looked = True
        return await handler(request)


class ToolRunner(_Middleware):
    """Runs the tools, recorded and within a budget. A tool's error is told to the model as its result."""

    def __init__(self, context: AgentContext, toolbox: Toolbox, max_calls: int) -> None:
        super().__init__()
        self._context = context
        self._toolbox = toolbox
        self._max_calls = max_calls
        self._calls = 0

    async def awrap_tool_call(self, request: ToolCallRequest, handler: ToolHandler) -> ToolMessage:
        # The handler is not used: the toolbox checks arguments and limits, the context keeps the record.
        call = request.tool_call
        identity = str(call["id"])
        try:
            content, status = _as_text(await self._run(call["name"], call["args"], identity)), "success"
        except ToolError as error:
            content, status = str(error), "error"
        return ToolMessage(content=content, tool_call_id=identity, name=call["name"], status=status)

    async def _run(self, name: str, arguments: dict[str, Any], identity: str) -> Any:
        self._calls += 1
        if self._calls > self._max_calls:
            raise ToolError("no tool calls are left", fix="answer with what is known")
        tool = self._toolbox.get(name)

        async def run() -> Any:
            return await self._toolbox.call(name, arguments, self._context)

        idempotent = tool is None or tool.idempotent
        return await self._context.call_tool(name, arguments, run, idempotent=idempotent, call_id=identity)


class WindowFit(_Middleware):
    """Keeps what is sent within the model's window: old tool results go first, then old turns, then length.

    The conversation itself is not changed, only what this call sees of it, and equal conversations are cut
    in equal ways, as a replay needs. Must stand behind those that change the request.
    """

    def __init__(self, model: ChatModel, window: int, reserve: int) -> None:
        super().__init__()
        self._model = model
        self._budget = window - reserve

    async def awrap_model_call(
        self, request: ModelRequest[None], handler: ModelHandler
    ) -> ModelResponse[Any]:
        system: list[BaseMessage] = [request.system_message] if request.system_message is not None else []
        room = self._budget - await self._tool_tokens(request)
        if await self._model.count_tokens(to_manta([*system, *request.messages])) > room:
            room -= sum([await self._size(message) for message in system])
            request = request.override(messages=await self._cut(request.messages, room))
        return await handler(request)

    async def _cut(self, messages: list[AnyMessage], room: int) -> list[AnyMessage]:
        sizes = [await self._size(message) for message in messages]
        plan = _Cutting(list(messages), sizes, room)
        plan.empty_old_results(await self._size(HumanMessage(content=OMITTED)))
        plan.drop_old_turns()
        for index, share in plan.shares():
            plan.messages[index] = await self._shortened(plan.messages[index], share)
        return plan.messages

    async def _shortened(self, message: AnyMessage, tokens: int) -> AnyMessage:
        text = str(message.text)
        while len(text) > _LEAST_CHARS and (size := await self._size(_with(message, text))) > tokens:
            # A bit less than the ratio says, so that a few rounds are enough.
            text = text[: max(_LEAST_CHARS, int(len(text) * 0.9 * max(tokens, 1) / size))]
        return message if text == message.text else _with(message, f"{text} [...]")

    async def _size(self, message: BaseMessage) -> int:
        # As a user's message: chat templates may refuse a conversation that is one answer or one result.
        (plain,) = to_manta([message])
        calls = json.dumps(to_json(plain.tool_calls)) if plain.tool_calls else ""
        return await self._model.count_tokens((ChatMessage("user", plain.content + calls),))

    async def _tool_tokens(self, request: ModelRequest[None]) -> int:
        schemas = [tool if isinstance(tool, dict) else convert_to_openai_tool(tool) for tool in request.tools]
        if isinstance(request.response_format, ToolStrategy):
            schemas += [spec.json_schema for spec in request.response_format.schema_specs]
        if not schemas:
            return 0
        return await self._model.count_tokens((ChatMessage("user", json.dumps(schemas)),))


@dataclass(slots=True)
class _Cutting:
    """A conversation being cut to a room; `sizes` are the tokens of each message."""

    messages: list[AnyMessage]
    sizes: list[int]
    room: int

    @property
    def too_long(self) -> bool:
        return sum(self.sizes) > self.room

    def empty_old_results(self, note: int) -> None:
        """Replace tool results by a note, oldest first, but none of the last turn."""
        last_turn = max((i for i, m in enumerate(self.messages) if isinstance(m, AIMessage)), default=0)
        for index, message in enumerate(self.messages[:last_turn]):
            if not self.too_long:
                return
            if isinstance(message, ToolMessage) and self.sizes[index] > note:
                self.messages[index], self.sizes[index] = _with(message, OMITTED), note

    def drop_old_turns(self) -> None:
        """Drop whole turns, oldest first: an assistant's calls and their results belong together."""
        while self.too_long:
            starts = [i for i, m in enumerate(self.messages) if isinstance(m, AIMessage)]
            if len(starts) < 2:
                return
            del self.messages[starts[0] : starts[1]]
            del self.sizes[starts[0] : starts[1]]

    def shares(self) -> list[tuple[int, int]]:
        """What is still too long, with the tokens each such message may keep."""
        if not self.too_long:
            return []
        long = [i for i, m in enumerate(self.messages) if isinstance(m, ToolMessage | HumanMessage)]
        others = sum(size for i, size in enumerate(self.sizes) if i not in long)
        whole = sum(self.sizes[i] for i in long) or 1
        left = max(self.room - others, 0)
        return [(i, left * self.sizes[i] // whole) for i in long]


def _with(message: AnyMessage, text: str) -> AnyMessage:
    return message.model_copy(update={"content": text})


def _as_text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
