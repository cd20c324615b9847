"""Any Manta model as a LangChain chat model, so that LangChain's agents and chains run on it.

Built over a `RecordedModel` its calls are recorded like all others.
"""

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from operator import itemgetter
from typing import Any, TypeAlias, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
)
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, Field

from agents.current_task import current_task
from agents.langchain_messages import named, thought, to_manta, told_logprobs, usage_metadata
from agents.structured import json_schema_format
from manta.errors import InvalidInput, PlatformError
from manta.messages import (
    ChatChunk,
    ChatRequest,
    Sampling,
    TokenLogprob,
    ToolCall,
    ToolSpec,
)
from manta.protocols import ChatModel
from tools.toolbox import Tool

_SAMPLING = tuple(field.name for field in dataclasses.fields(Sampling))
Waiting: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]
_CHOICES = {"any": "required", "required": "required", "auto": "auto", "none": "none"}


class MantaChatModel(BaseChatModel):
    """A LangChain chat model over a `manta.protocols.ChatModel`.

    Tools, tool choice, stop strings and structured output go to the model as they are; message ids, which
    LangChain draws at random, do not. What a model thought is in `additional_kwargs["reasoning_content"]`,
    log-probabilities in `response_metadata["logprobs"]`, both as other providers' classes have them. The
    fields of `Sampling` can be given with a call too. One answer a call: `n` is refused.
    """

    model: Any = Field(exclude=True, repr=False)
    """The `ChatModel`; any class that fits the protocol."""
    model_name: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    parallel_tool_calls: bool = True
    """Off: one call at most in an answer, which a small model is better held to."""
    sampling: Sampling = Sampling()
    logprobs: bool = False
    top_logprobs: int = 0
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
        with self._waiting() as wait:
            result: ChatResult = wait(self._agenerate(messages, stop, None, **kwargs))
            return result

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """As `_generate`, piece by piece."""
        chunks = self._astream(messages, stop, None, **kwargs)

        async def following() -> ChatGenerationChunk | None:
            return await anext(chunks, None)

        with self._waiting() as wait:
            try:
                while (chunk := wait(following())) is not None:
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
            finally:
                wait(chunks.aclose())

    @contextmanager
    def _waiting(self) -> Iterator[Waiting]:
        """What a caller without an event loop waits with."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            with asyncio.Runner() as runner:
                yield runner.run
            return
        raise PlatformError("a synchronous model call inside an event loop", fix="await ainvoke or astream")

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[ToolCall] = []
        logprobs: list[TokenLogprob] = []
        last = ChatChunk()
        async with aclosing(self._target().stream(self._request(messages, stop, kwargs))) as chunks:
            async for last in chunks:
                texts.append(last.text)
                thoughts.append(last.reasoning)
                calls.extend(last.tool_calls)
                logprobs.extend(last.logprobs)
                self._show(last.text)
        message = AIMessage(
            content="".join(texts),
            additional_kwargs=thought("".join(thoughts)),
            tool_calls=[tool_call(name=c.name, args=c.arguments, id=c.id) for c in named(messages, calls)],
            usage_metadata=usage_metadata(last.usage),
            response_metadata={**self._metadata(last), **told_logprobs(logprobs)},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
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
        plain = convert_to_json_schema(schema)
        # LangChain's own word to those who trace calls.
        traced = {"kwargs": {"method": "json_schema"}, "schema": plain}
        bound = self.bind(response_format=json_schema_format(plain), ls_structured_output_format=traced)
        parser: Any = JsonOutputParser()
        if isinstance(schema, type) and is_basemodel_subclass(schema):
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
        if kwargs.get("n") not in (None, 1):
            raise InvalidInput("a call has one answer", fix="call it several times, with `batch` say")
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
            parallel_tool_calls=kwargs.get("parallel_tool_calls", self.parallel_tool_calls) is not False,
            logprobs=self._wanted_logprobs(kwargs),
            sampling=_with(self.sampling, kwargs),
        )

    def _wanted_logprobs(self, kwargs: Mapping[str, Any]) -> int | None:
        if not kwargs.get("logprobs", self.logprobs):
            return None
        return int(kwargs.get("top_logprobs") or self.top_logprobs)

    def _message_chunk(
        self, messages: Sequence[BaseMessage], chunk: ChatChunk, calls: Sequence[ToolCall]
    ) -> AIMessageChunk:
        numbered = list(enumerate(named(messages, calls)))
        fresh = numbered[len(numbered) - len(chunk.tool_calls) :]
        is_last = chunk.finish_reason is not None
        return AIMessageChunk(
            content=chunk.text,
            additional_kwargs=thought(chunk.reasoning),
            tool_call_chunks=[
                tool_call_chunk(name=c.name, args=json.dumps(c.arguments), id=c.id, index=index)
                for index, c in fresh
            ],
            usage_metadata=usage_metadata(chunk.usage),
            response_metadata={**(self._metadata(chunk) if is_last else {}), **told_logprobs(chunk.logprobs)},
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

    @contextmanager
    def _waiting(self) -> Iterator[Waiting]:
        """Code in a thread of the task asks on the task's own event loop."""
        yield current_task().wait_for

    def _target(self) -> ChatModel:
        return current_task().context.model_named(self.model_name)

    def _show(self, text: str) -> None:
        if text and self.show_tokens:
            current_task().context.emit_token(text)


def _spec(tool: Any) -> ToolSpec:
    if isinstance(tool, ToolSpec):
        return tool
    if isinstance(tool, Tool):
        return tool.spec
    function = convert_to_openai_tool(tool)["function"]
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return ToolSpec(function["name"], function.get("description", ""), parameters)


def _with(sampling: Sampling, kwargs: Mapping[str, Any]) -> Sampling:
    given = {name: kwargs[name] for name in _SAMPLING if kwargs.get(name) is not None}
    if "stop_token_ids" in given:
        given["stop_token_ids"] = tuple(given["stop_token_ids"])
    return dataclasses.replace(sampling, **given)


def _choice(choice: str | bool | dict[str, Any]) -> str:
    if isinstance(choice, bool):
        return "required" if choice else "none"
    if isinstance(choice, dict):
        return str(choice["function"]["name"])
    return _CHOICES.get(choice, choice)
