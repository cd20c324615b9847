"""Any Manta model as a LangChain chat model, so that LangChain's agents and chains run on it.

Built over a `RecordedModel` its calls are recorded like all others.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, Field

from agents.current_task import current_task
from agents.structured import json_schema_format
from manta.errors import InvalidInput, PlatformError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ToolCall, ToolSpec, Usage
from manta.protocols import ChatModel
from tools.toolbox import Tool

_CHOICES = {"any": "required", "required": "required", "auto": "auto", "none": "none"}


class MantaChatModel(BaseChatModel):
    """A LangChain chat model over a `manta.protocols.ChatModel`.

    Tools, tool choice, stop strings and structured output go to the model as they are; message ids, which
    LangChain draws at random, do not.
    """

    model: Any = Field(exclude=True, repr=False)
    """The `ChatModel`; any class that fits the protocol."""
    model_name: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    on_token: Callable[[str], None] | None = Field(default=None, exclude=True, repr=False)
    """Told of each piece of text as it comes."""
    # A cache of LangChain's in front of the record would hide calls from it.
    cache: Any = Field(default=False, exclude=True)

    @property
    def _llm_type(self) -> str:
        return "manta"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "temperature": self.temperature}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """For callers without an event loop. Raises PlatformError inside one: it would block it."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._agenerate(messages, stop, None, **kwargs))
        raise PlatformError("a synchronous model call inside an event loop", fix="await ainvoke or astream")

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        texts: list[str] = []
        calls: list[ToolCall] = []
        last = ChatChunk()
        async with aclosing(self._target().stream(self._request(messages, stop, kwargs))) as chunks:
            async for last in chunks:
                texts.append(last.text)
                calls.extend(last.tool_calls)
                self._show(last.text)
        message = AIMessage(
            content="".join(texts),
            tool_calls=[tool_call(name=c.name, args=c.arguments, id=c.id) for c in _named(messages, calls)],
            usage_metadata=_usage_metadata(last.usage),
            response_metadata=self._metadata(last),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        calls: list[ToolCall] = []
        async with aclosing(self._target().stream(self._request(messages, stop, kwargs))) as chunks:
            async for chunk in chunks:
                self._show(chunk.text)
                calls.extend(chunk.tool_calls)
                generation = ChatGenerationChunk(message=self._message_chunk(messages, chunk, calls))
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=generation)
                yield generation

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Accepts what LangChain does, and Manta's `Tool` and `ToolSpec`."""
        bound: dict[str, Any] = {"tools": [_spec(tool) for tool in tools], **kwargs}
        if tool_choice is not None:
            bound["tool_choice"] = _choice(tool_choice)
        return cast(Runnable[LanguageModelInput, AIMessage], self.bind(**bound))

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Answers that follow a JSON Schema, asked for through `response_format`."""
        bound = self.bind(response_format=json_schema_format(convert_to_json_schema(schema)))
        parser: Any = JsonOutputParser()
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            parser = PydanticOutputParser(pydantic_object=schema)
        if not include_raw:
            return cast(Runnable[LanguageModelInput, dict[str, Any] | BaseModel], bound | parser)
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        either = parsed.with_fallbacks([failed], exception_key="parsing_error")
        return cast(
            Runnable[LanguageModelInput, dict[str, Any] | BaseModel], RunnableMap({"raw": bound}) | either
        )

    def _target(self) -> ChatModel:
        """The model that is asked."""
        target: ChatModel = self.model
        return target

    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> ChatRequest:
        choice = kwargs.get("tool_choice")
        return ChatRequest(
            messages=to_manta(messages),
            model=self.model_name,
            tools=tuple(_spec(tool) for tool in kwargs.get("tools") or ()),
            tool_choice=None if choice is None else _choice(choice),
            temperature=kwargs.get("temperature", self.temperature),
            top_p=kwargs.get("top_p", self.top_p),
            max_tokens=kwargs.get("max_tokens", self.max_tokens),
            stop=tuple(stop) if stop is not None else self.stop,
            seed=kwargs.get("seed", self.seed),
            response_format=kwargs.get("response_format"),
        )

    def _message_chunk(
        self, messages: Sequence[BaseMessage], chunk: ChatChunk, calls: Sequence[ToolCall]
    ) -> AIMessageChunk:
        named = list(enumerate(_named(messages, calls)))
        fresh = named[len(named) - len(chunk.tool_calls) :]
        is_last = chunk.finish_reason is not None
        return AIMessageChunk(
            content=chunk.text,
            tool_call_chunks=[
                tool_call_chunk(name=c.name, args=json.dumps(c.arguments), id=c.id, index=index)
                for index, c in fresh
            ],
            usage_metadata=_usage_metadata(chunk.usage),
            response_metadata=self._metadata(chunk) if is_last else {},
            chunk_position="last" if is_last else None,
        )

    def _metadata(self, last: ChatChunk) -> dict[str, Any]:
        return {"finish_reason": last.finish_reason or "stop", "model_name": self.model_name}

    def _show(self, text: str) -> None:
        if text and self.on_token is not None:
            self.on_token(text)


class PlatformChatModel(MantaChatModel):
    """A model of the platform for graphs that are built when their module is imported.

    Each call goes to the model of the task that is at work then, by `model_name` or the task's own, so it is
    recorded, replayed, counted and cancelled with it. What it writes is shown to those who watch the run,
    unless `show_tokens` is off. Raises PlatformError outside a task.
    """

    model: Any = Field(default=None, exclude=True, repr=False)
    show_tokens: bool = True

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """For code in a thread of the task: asks on the task's own event loop, and waits."""
        return current_task().wait_for(self._agenerate(messages, stop, None, **kwargs))

    def _target(self) -> ChatModel:
        return current_task().context.model_named(self.model_name)

    def _show(self, text: str) -> None:
        if text and self.show_tokens:
            current_task().context.emit_token(text)


def to_manta(messages: Sequence[BaseMessage]) -> tuple[ChatMessage, ...]:
    """LangChain's messages as Manta's. Raises InvalidInput for content that is not text."""
    return tuple(_to_manta(message) for message in messages)


def to_langchain(messages: Sequence[ChatMessage]) -> list[BaseMessage]:
    """Manta's messages as LangChain's."""
    return [_to_langchain(message) for message in messages]


def _to_manta(message: BaseMessage) -> ChatMessage:
    text = _text(message)
    if isinstance(message, ToolMessage):
        return ChatMessage("tool", text, tool_call_id=message.tool_call_id, name=message.name)
    if isinstance(message, AIMessage):
        calls = [ToolCall(c["id"] or "", c["name"], c["args"]) for c in message.tool_calls]
        # A call whose arguments could not be read still has its answer in the conversation.
        calls += [
            ToolCall(c["id"] or "", c["name"] or "", {"unreadable": c["args"]})
            for c in message.invalid_tool_calls
        ]
        return ChatMessage("assistant", text, tuple(calls), name=message.name)
    if isinstance(message, SystemMessage):
        return ChatMessage("system", text, name=message.name)
    if isinstance(message, HumanMessage):
        return ChatMessage("user", text, name=message.name)
    raise InvalidInput(f"a model cannot read a {type(message).__name__}", fix="use system, human, ai or tool")


def _to_langchain(message: ChatMessage) -> BaseMessage:
    match message.role:
        case "system":
            return SystemMessage(content=message.content, name=message.name)
        case "user":
            return HumanMessage(content=message.content, name=message.name)
        case "tool":
            return ToolMessage(
                content=message.content, tool_call_id=message.tool_call_id or "", name=message.name
            )
        case "assistant":
            calls = [tool_call(name=c.name, args=c.arguments, id=c.id) for c in message.tool_calls]
            return AIMessage(content=message.content, tool_calls=calls, name=message.name)


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = []
    for block in message.content:
        if isinstance(block, str):
            parts.append(block)
        elif block.get("type") == "text":
            parts.append(str(block.get("text", "")))
        elif block.get("type") not in ("tool_use", "tool_call"):  # These are in `tool_calls` too.
            raise InvalidInput(f"a model cannot read content of type {block.get('type')!r}", fix="send text")
    return "".join(parts)


def _named(messages: Sequence[BaseMessage], calls: Sequence[ToolCall]) -> list[ToolCall]:
    """The calls, each with an id of its own within the answer; made from positions, never at random."""
    used: set[str] = set()
    named = []
    for index, call in enumerate(calls):
        identity = call.id or f"call_{len(messages)}_{index}"
        if identity in used:
            identity = f"{identity}_{index}"
        used.add(identity)
        named.append(ToolCall(identity, call.name, call.arguments))
    return named


def _spec(tool: Any) -> ToolSpec:
    if isinstance(tool, ToolSpec):
        return tool
    if isinstance(tool, Tool):
        return tool.spec
    function = convert_to_openai_tool(tool)["function"]
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return ToolSpec(function["name"], function.get("description", ""), parameters)


def _choice(choice: str | bool | dict[str, Any]) -> str:
    if isinstance(choice, bool):
        return "required" if choice else "none"
    if isinstance(choice, dict):
        return str(choice["function"]["name"])
    return _CHOICES.get(choice, choice)


def _usage_metadata(usage: Usage | None) -> UsageMetadata | None:
    if usage is None:
        return None
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details={"cache_read": usage.cached_tokens},
    )
