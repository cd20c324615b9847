"""What request bodies under /v1 are made of.

A field that OpenAI does not know is refused as there. One that it knows is either acted on, or a hint that no
answer depends on, or refused where leaving it out of account would give another answer than was asked for.
A null is as good as nothing.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from manta.messages import CallHints, Sampling
from serve_app.gateway.body_types import WHOLE, BudgetBody, OwnBody, Priority, Seconds, Uuid
from serve_app.gateway.errors import BadField
from serve_app.gateway.openai.forms import Form, StructuredOutputs, form_of

MAX_ANSWERS = 8
Tokens = Annotated[int, Field(ge=1, lt=1 << 31), WHOLE]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31), WHOLE]
Text = Annotated[str, Field(min_length=1)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class OpenAIBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    refused: ClassVar[dict[str, str]] = {}
    """Fields that have to be null, and what to do instead."""

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, told: Any) -> Any:
        for name, instead in cls.refused.items() if isinstance(told, dict) else ():
            if told.get(name) is not None:
                raise BadField(
                    f"{name} is not supported", fix=instead, code="unsupported_parameter", param=name
                )
        return told


class Hints(OpenAIBody):
    """Fields of OpenAI's that no answer of Manta's depends on."""

    user: str | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    """Nothing is kept either way."""
    metadata: Metadata | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None


class Sampled(Hints):
    """How tokens are drawn and what the answer has to look like; what OpenAI lacks is named as vLLM names it."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63), WHOLE] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: (
        dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31), WHOLE] | None = None
    """-1 and 0 are no limit."""
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: Text | None = None
    guided_choice: Annotated[list[str], Field(min_length=1)] | None = None
    guided_grammar: Text | None = None

    def sampling(self) -> Sampling:
        return Sampling(
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=self.logit_bias or {},
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
        )

    def drawing(self) -> dict[str, Any]:
        """The fields of a `ChatRequest` that say how tokens are drawn, and for whom."""
        return {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "seed": self.seed,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "sampling": self.sampling(),
            "hints": CallHints(user=self.user or self.safety_identifier or ""),
        }

    def form(self, asked: Form | None = None) -> dict[str, Any] | None:
        """The `response_format` of a `ChatRequest`. Raises BadField where two forms are asked for."""
        guided = {
            "json": self.guided_json,
            "regex": self.guided_regex,
            "choice": self.guided_choice,
            "grammar": self.guided_grammar,
        }
        return form_of(asked, self.structured_outputs, StructuredOutputs.model_validate(guided))


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, use_attribute_docstrings=True)
    include_usage: bool | None = None
    """A last chunk without choices has the usage."""


class Completing(Sampled):
    """What asks for choices: a chat's or a prompt's."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS), WHOLE] | None = None

    @property
    def usage_wanted(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class RunOptions(OwnBody):
    """Of a graph's run, as `POST /runs` has them."""

    input: dict[str, Any] = {}
    """Goes into the graph's input, over what is taken from the messages."""
    thread_id: Uuid | None = None
    budget: BudgetBody | None = None
    priority: Priority = 0
    timeout_s: Seconds | None = None
