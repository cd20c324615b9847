"""Any vendor LangChain knows, through `init_chat_model`. The vendor's package is the user's to install."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from manta.config import ModelSettings, secret
from manta.errors import ModelLoadError, RemoteModelError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, ToolCall, Usage
from serve_app.backends.remote import CHARACTERS_PER_TOKEN, DEFAULT_WINDOW
from serve_app.openai_wire import message_to_wire, tool_to_wire


class LangChainBackend:
    healthy = True

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name = name
        self._settings = settings
        self._model: Any = None
        self._served = 0

    def start(self) -> None:
        from langchain.chat_models import init_chat_model

        options: dict[str, Any] = {"timeout": self._settings.timeout_s}
        if self._settings.api_key_env:
            options["api_key"] = secret(self._settings.api_key_env)
        if self._settings.base_url:
            options["base_url"] = self._settings.base_url
        try:
            self._model = init_chat_model(self._settings.source, **options)
        except (ImportError, ValueError) as error:
            cause = f"model {self._name}: {' '.join(str(error).split())}"
            raise ModelLoadError(
                cause, fix="source is provider:model; install the provider's package"
            ) from None

    def stop(self) -> None:
        self._model = None

    async def info(self) -> ModelInfo:
        return ModelInfo(
            self._name, self._settings.context_window or DEFAULT_WINDOW, self._settings.abilities
        )

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return sum(len(message.content) // CHARACTERS_PER_TOKEN + 4 for message in messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        from langchain_core.messages import AIMessageChunk, convert_to_messages

        whole: AIMessageChunk | None = None
        try:
            # LangChain reads OpenAI's message dicts.
            messages = convert_to_messages([message_to_wire(message) for message in request.messages])
            async for chunk in self._bound(request).astream(messages):
                whole = chunk if whole is None else whole + chunk
                if chunk.text:
                    yield ChatChunk(text=chunk.text)
        except Exception as error:
            # Every vendor has an error tree of its own; all of them mean that the model did not answer.
            cause = f"model {self._name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise RemoteModelError(cause, fix="check the key and the model's name") from None
        self._served += 1
        yield _last(whole)

    def _bound(self, request: ChatRequest) -> Any:
        options = {
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "stop": list(request.stop),
        }
        model = self._model.bind(**{key: value for key, value in options.items() if value not in (None, [])})
        if request.tools:
            model = self._model.bind_tools([tool_to_wire(tool) for tool in request.tools])
        return model

    def stats(self) -> dict[str, Any]:
        return {"served": self._served}


def _last(whole: Any) -> ChatChunk:
    if whole is None:
        return ChatChunk(finish_reason="stop", usage=Usage(model_calls=1))
    calls = tuple(ToolCall(call["id"] or "", call["name"], call["args"]) for call in whole.tool_calls)
    counted = whole.usage_metadata or {}
    usage = Usage(counted.get("input_tokens", 0), counted.get("output_tokens", 0), model_calls=1)
    return ChatChunk(tool_calls=calls, finish_reason="tool_calls" if calls else "stop", usage=usage)
