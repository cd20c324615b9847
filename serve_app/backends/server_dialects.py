"""How OpenAI-compatible servers say what OpenAI's API has no word for."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from manta.errors import InvalidInput
from manta.model_settings import ModelSettings

FORMS = ("regex", "choice", "grammar")
"""Forms of an answer besides OpenAI's; `response_format` has the form's name as `type` and as a key."""


def dialect_of(settings: ModelSettings) -> str:
    if settings.dialect != "auto":
        return settings.dialect
    preset = settings.launch.preset
    return preset if preset in _SPEAKERS else "openai"


def spoken(wire: Mapping[str, Any], dialect: str) -> dict[str, Any]:
    """The body of a request as a server of this dialect understands it.

    `openai` is as Manta's own API has it, so another Manta understands all of it.

    Raises:
        InvalidInput: the server is known not to do what is asked; it would answer without a word about it.
    """
    return _SPEAKERS[dialect](dict(wire))


def _form(wire: Mapping[str, Any]) -> tuple[str, Any]:
    """Kind and content of a form that is not OpenAI's own; empty without one."""
    wanted = wire.get("response_format") or {}
    kind = wanted.get("type", "")
    return (kind, wanted.get(kind)) if kind in FORMS else ("", None)


def _vllm(wire: dict[str, Any]) -> dict[str, Any]:
    # https://docs.vllm.ai/en/latest/features/structured_outputs/
    kind, form = _form(wire)
    if kind:
        del wire["response_format"]
        wire["structured_outputs"] = {kind: form}
    return wire


def _sglang(wire: dict[str, Any]) -> dict[str, Any]:
    # https://docs.sglang.io/docs/advanced_features/structured_outputs
    kind, form = _form(wire)
    if kind == "grammar":
        raise InvalidInput("SGLang takes no grammar in Lark", fix="ask for a regex or a JSON schema")
    if kind:
        del wire["response_format"]
        wire["regex"] = form if kind == "regex" else "|".join(re.escape(choice) for choice in form)
    return wire


def _llama_cpp(wire: dict[str, Any]) -> dict[str, Any]:
    # https://github.com/ggml-org/llama.cpp/tree/master/tools/server
    kind, form = _form(wire)
    if kind in ("regex", "grammar"):
        cause = f"llama.cpp takes no {kind} of this kind"
        raise InvalidInput(cause, fix="ask for a choice or a JSON schema")
    if kind:
        del wire["response_format"]
        wire["grammar"] = "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in form)
    if isinstance(wire.get("tool_choice"), dict):
        # It knows words only, and takes a name for `auto`.
        named = wire["tool_choice"]["function"]["name"]
        wire["tools"] = [tool for tool in wire["tools"] if tool["function"]["name"] == named]
        wire["tool_choice"] = "required"
    if "repetition_penalty" in wire:
        wire["repeat_penalty"] = wire.pop("repetition_penalty")
    if "stop_token_ids" in wire:
        raise InvalidInput("llama.cpp stops at no token ids", fix="give stop strings")
    return wire


def _transformers(wire: dict[str, Any]) -> dict[str, Any]:
    """`transformers serve` passes over fields that it knows and does not support."""
    asked: list[str] = [key for key in ("response_format", "logprobs", "presence_penalty") if key in wire]
    if wire.get("response_format") == {"type": "text"}:
        asked.remove("response_format")
    if wire.get("tool_choice") not in (None, "auto"):
        asked.append("tool_choice")
    if asked:
        raise InvalidInput(f"transformers serve does not do {asked[0]}", fix="leave it out")
    return wire


_SPEAKERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "openai": lambda wire: wire,
    "vllm": _vllm,
    "sglang": _sglang,
    "llama_cpp": _llama_cpp,
    "transformers": _transformers,
}
