"""What makes two requests the same question, exactly or nearly, and whether an answer may be kept for it."""

import re
from dataclasses import dataclass
from typing import Any

from agents.call_keys import request_body, request_hash
from manta.ids import Tenant
from manta.messages import ChatRequest

MAX_BYTES = 254
"""Of a last message that is compared by its meaning. The embedder reads 256 tokens with its two of its own, and none
has less than a byte: of a longer message it might not see what tells it from another."""
_COMPARABLE_FORMS = frozenset({"text", "json_object", "json_schema"})
_NEGATIONS = frozenset({"no", "not", "nor", "none", "never", "without", "cannot"})
_AROUND = ".,;:!?\"'`()[]{}“”«»…"
"""What stands around a word and is not part of it."""
_PLAIN = re.compile(r"[a-z]+(?:['-][a-z]+)*")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to one version of a model, as its cache sees it.

    `scope` names all that must be equal for another request's last message to be compared with `text`; an empty one
    is compared with none.
    """

    tenant: Tenant
    key: str
    scope: str = ""
    text: str = ""


def may_keep(request: ChatRequest, *, sampled: bool) -> bool:
    """Whether its answer is the model's own choice, which it would make again."""
    return sampled or request.temperature == 0 or request.seed is not None


def asked(model: str, version: int, request: ChatRequest, *, compared: bool = True) -> Asked | None:
    """None for a request that has no canonical form, such as one with a temperature that is no number.

    Args:
        compared: whether like questions are looked for.
    """
    tenant = request.hints.tenant
    body = request_body(request)
    # The name may be there or be the default's; who is asked is known by `model`.
    del body["model"]
    try:
        key = request_hash([tenant, model, version, body])
        if not (compared and comparable(request)):
            return Asked(tenant, key)
        text = request.messages[-1].content
        scope = request_hash([tenant, model, version, _without_last(body), firm_words(text)])
    except ValueError:
        return None
    return Asked(tenant, key, scope, text)


def comparable(request: ChatRequest) -> bool:
    """Whether a like question could have its answer: one in plain words, with nothing done yet."""
    messages = request.messages
    if request.prompt is not None or request.prompt_ids or not messages or messages[-1].role != "user":
        return False
    if any(message.tool_calls or message.role == "tool" for message in messages):
        return False
    form = (request.response_format or {}).get("type", "text")
    text = messages[-1].content
    short = len(text.encode("utf-8", "surrogatepass")) <= MAX_BYTES
    return form in _COMPARABLE_FORMS and bool(text.strip()) and short


def firm_words(text: str) -> list[str]:
    """The words that like questions must have in common, in their order.

    A vector hardly tells numbers, signs, yes from no, or words of scripts that the embedder cannot read.
    """
    words = (word.strip(_AROUND) for word in text.casefold().replace("’", "'").split())
    return [word for word in words if word and _is_firm(word)]


def _is_firm(word: str) -> bool:
    return word in _NEGATIONS or word.endswith("n't") or _PLAIN.fullmatch(word) is None


def _without_last(body: dict[str, Any]) -> dict[str, Any]:
    *before, last = body["messages"]
    return {**body, "messages": [*before, {**last, "content": None}]}
