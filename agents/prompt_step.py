"""A graph's `prompt` step: one question to a model; with a schema, an answer that is checked and mended."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agents.asking import answer
from agents.conversation import chat_messages
from agents.structured import SchemaReader, json_schema_format, schema_request
from manta.errors import ContextLengthExceeded, InvalidInput, StepError
from manta.messages import ChatMessage, ChatRequest
from manta.protocols import AgentContext, ChatModel

REPAIRS = 2
"""How often a model is told what was wrong with its JSON."""
MAX_TEMPERATURE = 2.0
_MAX_SEED = 2**63 - 1
_SHOWN = 2000
"""Characters of a wrong answer that its repair repeats."""


async def ask_prompt(context: AgentContext, prompt: Mapping[str, Any]) -> Any:
    """The answer's text, or with `json_schema` its value.

    Args:
        prompt: the fields of `manta.graph.Prompt`, their references filled in.

    Raises:
        InvalidInput: code `invalid_prompt`, a reference brought what cannot be used.
        NotFound: there is no model of that name.
        StepError: code `invalid_answer`, the answer breaks the schema after all repairs.
        ModelError: the model could not answer.
    """
    model = context.model_named(_text(prompt.get("model")))
    request = prompt_request(prompt)
    schema = prompt.get("json_schema")
    if schema is None:
        return await answer(context, model, request)
    return await _value(context, model, request, schema)


def prompt_request(prompt: Mapping[str, Any]) -> ChatRequest:
    """The prompt as a model is asked it. Raises InvalidInput."""
    system, text = _text(prompt.get("system")), _text(prompt.get("text"))
    before = [ChatMessage("system", system)] if system.strip() else []
    after = [ChatMessage("user", text)] if text.strip() else []
    messages = (*before, *chat_messages(prompt.get("messages")), *after)
    if not any(message.role == "user" for message in messages):
        raise _bad("the prompt's text is empty", "check the references in it")
    return ChatRequest(
        messages,
        model=_text(prompt.get("model")),
        temperature=_temperature(prompt.get("temperature")),
        top_p=float(prompt.get("top_p") or 1.0),
        max_tokens=prompt.get("max_tokens"),
        stop=tuple(_text(stop) for stop in prompt.get("stop") or () if stop),
        seed=_seed(prompt.get("seed")),
    )


async def _value(
    context: AgentContext, model: ChatModel, request: ChatRequest, schema: Mapping[str, Any]
) -> Any:
    reader = SchemaReader(schema)
    if "json" in (await model.info()).abilities:
        request = replace(request, response_format=json_schema_format(schema))
    else:
        request = replace(request, messages=_with_words(request.messages, schema_request(schema)))
    problem = ""
    for _ in range(1 + REPAIRS):
        try:
            text = await answer(context, model, request)
        except ContextLengthExceeded:
            if not problem:
                raise
            break  # The repair no longer fits; what was wrong before still is.
        value, problem = reader.read(text)
        if not problem:
            return value
        request = replace(request, messages=(*request.messages, *_repair(text, problem)))
    raise StepError(
        f"the answer breaks its schema: {problem}", fix="use a stronger model", code="invalid_answer"
    )


def _repair(text: str, problem: str) -> tuple[ChatMessage, ChatMessage]:
    told = f"That answer cannot be used: {problem}. Answer again, only with the JSON."
    return ChatMessage("assistant", text[:_SHOWN] or "(nothing)"), ChatMessage("user", told)


def _with_words(messages: tuple[ChatMessage, ...], words: str) -> tuple[ChatMessage, ...]:
    """More words at the end of what the user says."""
    *before, last = messages
    if last.role != "user":
        return (*messages, ChatMessage("user", words))
    return (*before, replace(last, content=f"{last.content}\n\n{words}"))


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _temperature(value: Any) -> float:
    if value is None or value == "":
        return 0.0
    number = _number(value, "temperature")
    if not 0 <= number <= MAX_TEMPERATURE:
        raise _bad(f"temperature is {number:g}", f"give 0 to {MAX_TEMPERATURE:g}")
    return number


def _seed(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        value = int(value)
    # A whole number keeps its digits: a float has but 53 bits.
    number = value if type(value) is int else _number(value, "seed")
    if not 0 <= number <= _MAX_SEED or number != int(number):
        raise _bad(f"seed is {value!r}", "give a whole number from 0")
    return int(number)


def _number(value: Any, name: str) -> float:
    """A number, also one that came as text through a reference."""
    try:
        number = (
            float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        )
    except (ValueError, OverflowError):
        number = None
    if number is None or not math.isfinite(number):
        raise _bad(f"{name} is {str(value)[:80]!r}", "give a number")
    return number


def _bad(cause: str, fix: str) -> InvalidInput:
    return InvalidInput(cause, fix=fix, code="invalid_prompt")
