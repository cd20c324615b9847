"""What request bodies are made of. Fields of the Agent Protocol that are not known here are let pass, as its
schemas say; in bodies that are Manta's own an unknown field is an error.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.networks import AnyHttpUrl

from manta.messages import Budget, from_json

_UUID_PATTERN = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"


def _whole(value: Any) -> Any:
    """JSON has no integers: 1.0 is one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _http_url(value: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("an address has only printable ASCII characters; others are written as %XX")
    # Checked, but kept as it was written.
    AnyHttpUrl(value)
    return value


Uuid = Annotated[
    str,
    Field(pattern=_UUID_PATTERN),
    AfterValidator(str.lower),
    WithJsonSchema({"type": "string", "format": "uuid"}),
]
WHOLE = BeforeValidator(_whole)
"""Behind the bounds of an integer: JSON has no integers, and 1.0 is one of them."""
Whole = Annotated[int, WHOLE]
Limit = Annotated[int, Field(ge=1, le=1000), WHOLE]
Offset = Annotated[int, Field(ge=0, le=1_000_000), WHOLE]
Priority = Annotated[int, Field(ge=-100, le=100), WHOLE]
Seconds = Annotated[float, Field(gt=0, le=1e9)]
WebAddress = Annotated[
    str,
    Field(min_length=1, max_length=65_536),
    AfterValidator(_http_url),
    WithJsonSchema({"type": "string", "format": "uri", "pattern": "^https?://", "maxLength": 65_536}),
]
Name = Annotated[
    str,
    Field(min_length=1, max_length=255),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": r"^[^\u0000-\u001f\u007f-\u00a0\u00ad]+$",
            "description": "Printable characters.",
        }
    ),
]
Text = Annotated[str, Field(max_length=100_000)]
Anything = Annotated[Any, WithJsonSchema({})]
Metadata = dict[str, Any]


class Body(BaseModel):
    """Of a route of the protocol."""

    model_config = ConfigDict(extra="ignore", strict=True, use_attribute_docstrings=True)


class OwnBody(BaseModel):
    """Of a route that is Manta's own."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class BudgetBody(OwnBody):
    """What a run may use; what is left out or null is not limited."""

    tokens: Annotated[int, Field(ge=0, le=1 << 53), WHOLE] | None = None
    model_calls: Annotated[int, Field(ge=0, le=1 << 31), WHOLE] | None = None
    tool_calls: Annotated[int, Field(ge=0, le=1 << 31), WHOLE] | None = None
    seconds: Annotated[float, Field(ge=0, le=1e9)] | None = None
    money: Annotated[float, Field(ge=0, le=1e9)] | None = None

    def budget(self) -> Budget:
        return from_json(Budget, self.model_dump())


class MessageBlock(BaseModel):
    """A part of a message's content; of the type `text` it has a `text`."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str
    metadata: Metadata | None = None


class Message(BaseModel):
    """A message of a conversation, as the protocol has it; other fields are kept."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: str
    content: str | list[MessageBlock]
    id: str | None = None
    metadata: Metadata | None = None

    def plain(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


Status = Literal["pending", "error", "success", "timeout", "interrupted"]
"""Of a run, as the protocol has it."""
