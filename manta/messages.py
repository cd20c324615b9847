"""The few values that cross a process: frozen dataclasses of plain JSON values.

Everything here round-trips through `to_json` and `from_json` and through pickle.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from manta.ids import DEFAULT_TENANT, RunId, StepKey, Tenant
from manta.sampling import Sampling as Sampling
from manta.sampling import TokenLogprob as TokenLogprob
from manta.usage import Budget as Budget
from manta.usage import Limit as Limit
from manta.usage import Price as Price
from manta.usage import Usage as Usage

Json: typing.TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class CallScope:
    """On whose behalf something happens. Every message carries one.

    `epoch` is the fencing number of the coordinator's claim on the run, `attempt` counts the tries of
    this step execution from 1; together they decide whether a late write is still welcome.
    `deadline` is in seconds since the epoch; None is no deadline.
    """

    run: RunId
    step: StepKey
    tenant: Tenant = DEFAULT_TENANT
    principal: str = "local"
    attempt: int = 1
    epoch: int = 1
    deadline: float | None = None
    trace_parent: str | None = None
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model is told of it; `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallHints:
    """What the coordinator knows of a call beyond its text; schedulers may use it. Answers depend on none of it but
    `semantic_cache`, the cosine from which the run's graph lets questions count as the same; None: none do.

    `priority`: lower goes first. `attained_tokens`: what this run has spent so far.
    `steps_left`: steps of the graph that still have to finish after this one.
    `deadline`: seconds since the epoch at which the caller's lease lapses.
    `tenant`, `user`: whose call it is; the user is who the caller says it asks for, else the caller.
    """

    run: RunId | None = None
    step: StepKey | None = None
    epoch: int = 0
    priority: int = 0
    attained_tokens: int = 0
    steps_left: int = 0
    deadline: float | None = None
    tenant: Tenant = DEFAULT_TENANT
    user: str = ""
    semantic_cache: float | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One model call. `temperature` 0 is greedy; `max_tokens` None: the model's own bound, else what is
    left of the window.

    Either `messages`, or a raw prompt that no chat template touches: `prompt`, or the token ids `prompt_ids`.
    `response_format` holds the answer to a form: `json_object`, `json_schema` as in OpenAI's API, and
    `{"type": "regex", "regex": ...}`, `{"type": "choice", "choice": [...]}`, `{"type": "grammar", "grammar": LARK}`.
    `tool_choice`: `auto`, `none`, `required` or a tool's name. `logprobs`: None, or how many alternatives to tell
    for each token. `n`: how many answers. `sampling`: the rest.
    """

    messages: tuple[ChatMessage, ...]
    model: str = ""
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    prompt: str | None = None
    prompt_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    n: int = 1
    sampling: Sampling = Sampling()
    hints: CallHints = CallHints()

    @property
    def offered(self) -> tuple[ToolSpec, ...]:
        """The tools that may be called at all."""
        return () if self.tool_choice == "none" else self.tools

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return bool(self.offered) and self.tool_choice not in (None, "auto")

    @property
    def named_tool(self) -> str | None:
        """The only tool that may be called, by its name."""
        return self.tool_choice if self.must_call and self.tool_choice != "required" else None


@dataclass(frozen=True, slots=True)
class ChatChunk:
    """A piece of the answer number `choice`. The last one of each answer has `finish_reason`, the last of all `usage`.

    `finish_reason`: `stop`, `length` or `tool_calls`. `reasoning` is thought that is not part of the answer.
    `by`: who answers, as MODEL@VERSION, where the platform chose it; said with the first piece and with the usage,
    which then has its cost.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0
    by: str = ""


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """A whole answer. `logprobs` and the answers of `n` over 1 are not kept."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    usage: Usage = Usage()
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model can do; agents choose their strategy by it. `context_window` is in tokens."""

    id: str
    context_window: int
    abilities: tuple[str, ...] = ()
    """Of `tools` (reliable tool calls), `json` (reliable structured output)."""
    price: Price = Price()


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document, verbatim: `text == document_text[start:end]`, offsets in characters."""

    id: str
    document: str
    start: int
    end: int
    text: str
    score: float = 0.0
    source: str = "document"
    """`document` for a collection, `web` for a fetched page (then `document` is its address)."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the answer. `origin`: `model` wrote it, or it was `quoted` from a passage, or `computed`."""

    text: str
    citations: tuple[str, ...] = ()
    origin: Literal["model", "quoted", "computed"] = "model"


@dataclass(frozen=True, slots=True)
class DroppedSentence:
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """An answer to a sub-question and the passages that were read for it."""

    question: str
    sentences: tuple[Sentence, ...] = ()
    passages: tuple[Passage, ...] = ()
    dropped: tuple[DroppedSentence, ...] = ()


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A file kept by content: `sha256` names it in the artifact store; `size` in bytes."""

    name: str
    sha256: str
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Analysis:
    """One result of code that ran: its statement, the code, what it printed, its charts."""

    title: str
    statements: tuple[Sentence, ...]
    code: str
    output: str
    data_files: tuple[str, ...] = ()
    charts: tuple[ArtifactRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """One step execution handed to an agent pool. `spent` is what the run's finished steps have used.

    `options` is for the worker: the step's kind (`tool`, `call`, `prompt`, `runnable`) and what it names.
    `limits` are the budgets that cover this step, the run's first. `coordinator` is the actor that keeps its
    record, by name; empty is the only one.
    """

    scope: CallScope
    agent: str
    input: dict[str, Any]
    model: str = ""
    hints: CallHints = CallHints()
    options: dict[str, Any] = field(default_factory=dict)
    spent: Usage = Usage()
    limits: tuple[Limit, ...] = ()
    coordinator: str = ""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a step execution came to; either `output` or `error` (as `MantaError.to_json`) is set.

    `notes`: what a replay needs besides the calls, as far as no call took it along (see `CallOutcome`).
    `unknown_call`: with the error `outcome_unknown`, the key of the call that a person has to decide on.
    """

    output: Any = None
    error: dict[str, Any] | None = None
    usage: Usage = Usage()
    notes: dict[str, Any] | None = None
    unknown_call: str | None = None


@dataclass(frozen=True, slots=True)
class CallIntent:
    """A model or tool call about to be made. `key` repeats when the step is run again.

    `request` may be told as a difference to an earlier call of the step; see `agents.request_deltas`.
    `reserve`: the most it can use, held back from the budgets in `limits` until the outcome is there.
    """

    scope: CallScope
    key: str
    kind: Literal["model", "tool"]
    name: str
    request_hash: str
    request: dict[str, Any]
    idempotent: bool = True
    reserve: Usage = Usage()
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """How a call ended: `response` or `error`. Committed before the agent goes on.

    `notes`: what the agent asked of the model besides (its abilities, token counts), for a replay without it.
    """

    scope: CallScope
    key: str
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    usage: Usage = Usage()
    notes: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call as the journal has it.

    `state`: `intent` (begun), `done`, `unknown` (begun, then its process died), or `cleared` (a person said
    that it did not take effect, or asked for another try: it may be made again). `request` and `notes` are
    there when the whole record was asked for.
    """

    key: str
    kind: str
    name: str
    request_hash: str
    state: Literal["intent", "done", "unknown", "cleared"]
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    usage: Usage = Usage()
    request: dict[str, Any] | None = None
    notes: dict[str, Any] | None = None


T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Plain JSON values for a dataclass of this module, or any nest of them."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    names = _FIELD_NAMES.get(kind)
    if names is None and dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = _FIELD_NAMES[kind] = tuple(f.name for f in dataclasses.fields(value))
    if names is not None:
        return {name: to_json(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    return value


_SCALARS = frozenset({str, int, float, bool, type(None)})
_FIELD_NAMES: dict[type, tuple[str, ...]] = {}


def from_json(kind: type[T], data: Any) -> T:
    """The inverse of `to_json` for one class. Unknown fields are ignored: newer writers may add some.

    Raises:
        TypeError: a required field is missing.
    """
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: _convert(hints[k], v) for k, v in data.items() if k in known})


def _convert(hint: Any, value: Any) -> Any:
    if isinstance(hint, typing.NewType):
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in args if a is not type(None)), value)
    if origin is tuple and value is not None:
        return tuple(_convert(args[0], v) for v in value)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_json(typing.cast(type[Any], hint), value)
    return value
