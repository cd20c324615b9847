"""Any vendor LangChain knows, through `init_chat_model`. The vendor's package is the user's to install."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from manta.config import ModelSettings, secret
from manta.errors import ContextLengthExceeded, InvalidInput, ModelError, ModelLoadError, RemoteModelError
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo, ToolCall, Usage
from serve_app.backends.openai_answers import logprobs_from_wire
from serve_app.backends.openai_client import DEFAULT_WINDOW, estimate
from serve_app.backends.refusal import Refused, refusal
from serve_app.backends.server_dialects import FORMS
from serve_app.openai_wire import message_to_wire, tool_to_wire

_CUT_SHORT = ("length", "max_tokens", "MAX_TOKENS")
"""Vendors' words for an answer that ended at max_tokens."""


class LangChainBackend:
    healthy = True

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name = name
        self._settings = settings
        self._model: Any = None
        self._served = 0

    def start(self) -> None:
        from langchain.chat_models import init_chat_model

        try:
            self._model = init_chat_model(self._settings.source, **_construction(self._settings))
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
        """An estimate: the vendors' own counts cost a call each, or their tokenizers a download."""
        return estimate(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        from langchain_core.messages import AIMessageChunk, convert_to_messages

        _refuse_what_langchain_has_no_word_for(self._name, request)
        whole: AIMessageChunk | None = None
        cut_short = False
        try:
            # LangChain reads OpenAI's message dicts.
            messages = convert_to_messages([message_to_wire(message) for message in request.messages])
            async for chunk in self._bound(request).astream(messages):
                whole = chunk if whole is None else whole + chunk
                # Of each chunk, as adding chunks joins the words of their reasons.
                cut_short = cut_short or _cut_short(chunk)
                piece = _piece(chunk)
                if piece is not None:
                    yield piece
        except Exception as error:
            # Every vendor has an error tree of its own. OpenAI's class also raises after the last piece of an answer
            # that max_tokens cut, where a shape was asked; what came is whole for us.
            if not cut_short:
                raise _translated(self._name, error) from None
        self._served += 1
        yield _last(self._name, whole, cut_short)

    def _bound(self, request: ChatRequest) -> Any:
        model = self._model
        if request.tools:
            # Only OpenAI says `required`; LangChain's common word is `any`.
            choice = "any" if request.tool_choice == "required" else request.tool_choice
            chosen: dict[str, Any] = {} if choice is None else {"tool_choice": choice}
            if not request.parallel_tool_calls:
                chosen["parallel_tool_calls"] = False
            model = model.bind_tools([tool_to_wire(tool) for tool in request.tools], **chosen)
        return model.bind(**_options(request))

    def stats(self) -> dict[str, Any]:
        return {"served": self._served}


def _construction(settings: ModelSettings) -> dict[str, Any]:
    # The caller retries and records each try, so the vendor's own client must not.
    options: dict[str, Any] = {"timeout": settings.timeout_s, "max_retries": 0}
    if settings.api_key_env:
        options["api_key"] = secret(settings.api_key_env)
    if settings.base_url:
        options["base_url"] = settings.base_url
        if settings.source.startswith("openai:"):
            # OpenAI's class asks servers other than OpenAI's for no usage unless it is told to.
            options["stream_usage"] = True
    return options


def _options(request: ChatRequest) -> dict[str, Any]:
    """What the request asks for, by LangChain's names. What it leaves at its default is the vendor's to choose."""
    asked = {
        "temperature": request.temperature,
        "top_p": request.top_p if request.top_p != 1 else None,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "response_format": request.response_format,
        "top_k": request.sampling.top_k or None,
        "presence_penalty": request.sampling.presence_penalty or None,
        "frequency_penalty": request.sampling.frequency_penalty or None,
        "logit_bias": request.sampling.logit_bias or None,
        "logprobs": None if request.logprobs is None else True,
        "top_logprobs": request.logprobs or None,
    }
    return {key: value for key, value in asked.items() if value is not None}


def _refuse_what_langchain_has_no_word_for(name: str, request: ChatRequest) -> None:
    """Raises InvalidInput. What a single vendor lacks, its own class refuses."""
    sampling = request.sampling
    asked = {
        "a raw prompt": request.prompt is not None or request.prompt_ids,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty != 1,
        "stop_token_ids": sampling.stop_token_ids,
        "ignore_eos": sampling.ignore_eos,
    }
    form = (request.response_format or {}).get("type")
    if form in FORMS:
        asked[f"an answer in the form of a {form}"] = True
    missing = [what for what, wanted in asked.items() if wanted]
    if missing:
        cause = f"model {name} is reached through LangChain, which has no word for {missing[0]}"
        raise InvalidInput(cause, fix="leave it out, or use a model with another backend")


def _piece(chunk: Any) -> ChatChunk | None:
    thoughts = [block["reasoning"] for block in chunk.content_blocks if block.get("reasoning")]
    logprobs = logprobs_from_wire(chunk.response_metadata.get("logprobs"))
    if not (chunk.text or thoughts or logprobs):
        return None
    return ChatChunk(text=chunk.text, reasoning="".join(thoughts), logprobs=logprobs)


def _translated(name: str, error: Exception) -> ModelError:
    from langchain_core.exceptions import ContextOverflowError
    from langchain_core.exceptions import ModelError as VendorError

    text = " ".join(str(error).split())[:300]
    if isinstance(error, ContextOverflowError):
        return ContextLengthExceeded(f"model {name}: {text}", fix="shorten the prompt")
    status = _status(error)
    if status is not None:
        return refusal(name, status, text, named_by="source")
    cause = f"model {name}: {type(error).__name__}: {text}"
    final = isinstance(error, VendorError) and not error.is_retryable
    if final or isinstance(error, TypeError | NotImplementedError):
        return Refused(cause, fix="the vendor's class does not take what was asked; ask for less")
    return RemoteModelError(cause, fix=f"check models.{name}.base_url, then try again")


def _status(error: Exception) -> int | None:
    """The HTTP status, where the vendors' classes keep it: on the error or on its response."""
    for holder in (error, getattr(error, "response", None)):
        for field in ("status_code", "code"):
            status = getattr(holder, field, None)
            if isinstance(status, int) and 400 <= status < 600:
                return status
    return None


def _last(name: str, whole: Any, cut_short: bool) -> ChatChunk:
    if whole is None:
        return ChatChunk(finish_reason="stop", usage=Usage(model_calls=1))
    if whole.invalid_tool_calls:
        broken = whole.invalid_tool_calls[0]["name"]
        raise RemoteModelError(f"model {name}: the arguments of {broken!r} are not JSON", fix="try again")
    calls = tuple(ToolCall(call["id"] or "", call["name"], call["args"]) for call in whole.tool_calls)
    finish = "length" if cut_short else "tool_calls" if calls else "stop"
    return ChatChunk(tool_calls=calls, finish_reason=finish, usage=_usage(whole))


def _cut_short(chunk: Any) -> bool:
    said = chunk.response_metadata
    return (said.get("finish_reason") or said.get("stop_reason")) in _CUT_SHORT


def _usage(whole: Any) -> Usage:
    counted = whole.usage_metadata or {}
    cached = (counted.get("input_token_details") or {}).get("cache_read") or 0
    return Usage(counted.get("input_tokens", 0), counted.get("output_tokens", 0), cached, model_calls=1)
