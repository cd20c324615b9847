"""What is asked of /v1/responses."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from manta.messages import ChatRequest
from serve_app.gateway.body_types import WHOLE
from serve_app.gateway.errors import BadField
from serve_app.gateway.openai.bodies import OpenAIBody, RunOptions, Sampled, Tokens
from serve_app.gateway.openai.forms import TextFormat
from serve_app.gateway.openai.response_input import messages_of
from serve_app.gateway.openai.tooling import read_tools
from serve_app.gateway.openai.wire_schemas import RESPONSE_INPUT, RESPONSE_TOOL_CHOICE, RESPONSE_TOOLS

LOGPROBS = "message.output_text.logprobs"
_RESEND = "send the conversation as input; responses are not kept"


class TextOptions(OpenAIBody):
    format: TextFormat | None = None
    verbosity: str | None = None


class ResponseStreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class ResponseBody(Sampled):
    refused = {
        "previous_response_id": _RESEND,
        "conversation": _RESEND,
        "prompt": "send the prompt's text as input",
    }

    model: str | None = None
    """A model, or a graph as `manta/NAME`; null is the platform's default model."""
    input: Annotated[str | Annotated[list[Any], Field(min_length=1)], WithJsonSchema(RESPONSE_INPUT)]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    tools: Annotated[list[Any], WithJsonSchema(RESPONSE_TOOLS)] | None = None
    tool_choice: Annotated[Any, WithJsonSchema(RESPONSE_TOOL_CHOICE)] = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    include: list[str] | None = None
    """`message.output_text.logprobs` is acted on."""
    truncation: Literal["disabled"] | None = None
    background: bool | None = None
    """The answer is the response as it is kept; it is worked on whoever waits for it."""
    reasoning: dict[str, Any] | None = None
    """A hint that no model takes yet."""
    max_tool_calls: Tokens | None = None
    """Of tools that OpenAI runs itself; here the caller runs them all."""
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    manta: RunOptions | None = None
    """Of a graph's run."""

    @model_validator(mode="after")
    def _kept(self) -> "ResponseBody":
        if self.background and self.store is False:
            raise BadField("a background response is stored", fix="leave store out", param="store")
        return self

    @property
    def logprobs(self) -> int | None:
        wanted = self.top_logprobs is not None or LOGPROBS in (self.include or ())
        return (self.top_logprobs or 0) if wanted else None

    def request(self) -> ChatRequest:
        """Raises BadField."""
        tools, choice = read_tools([_nested(tool) for tool in self.tools or ()], _choice(self.tool_choice))
        return ChatRequest(
            messages=messages_of(self.input, self.instructions),
            tools=tools,
            tool_choice=choice,
            max_tokens=self.max_output_tokens,
            response_format=self.form(self.text.format if self.text else None),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            logprobs=self.logprobs,
            **self.drawing(),
        )

    def echoed(self) -> dict[str, Any]:
        """What a response repeats of its request."""
        text = self.text.model_dump(by_alias=True, exclude_none=True) if self.text else {}
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": bool(self.background),
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": self.tool_choice or "auto",
            "tools": [{"strict": None, "parameters": None, **tool} for tool in self.tools or ()],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": "disabled",
            "background": bool(self.background),
            "user": self.user,
        }


def _nested(tool: Any) -> Any:
    """A tool as chat completions have it."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool if isinstance(tool, dict) and "type" in tool else {"type": None}
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function" and "function" not in choice:
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice
