"""What an answer has to look like: OpenAI's `response_format`, and vLLM's names for the same and more."""

import json
from typing import Annotated, Any, Literal, TypeAlias

import jsonschema
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from manta.errors import InvalidInput
from serve_app import strict_json
from serve_app.gateway.errors import BadField


def valid_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for what is no JSON Schema."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        raise ValueError(f"not a JSON Schema: {where + ': ' if where else ''}{error.message[:200]}") from None
    return schema


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextForm(_Form):
    type: Literal["text"]


class JsonForm(_Form):
    type: Literal["json_object"]


class NamedSchema(_Form):
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any], AfterValidator(valid_schema), Field(alias="schema")]
    strict: bool | None = None


class SchemaForm(_Form):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class FlatSchemaForm(NamedSchema):
    """As /v1/responses has it."""

    type: Literal["json_schema"]


class RegexForm(_Form):
    type: Literal["regex"]
    regex: Annotated[str, Field(min_length=1)]


class ChoiceForm(_Form):
    type: Literal["choice"]
    choice: Annotated[list[str], Field(min_length=1)]


class GrammarForm(_Form):
    type: Literal["grammar"]
    grammar: Annotated[str, Field(min_length=1)]


ResponseFormat: TypeAlias = Annotated[
    TextForm | JsonForm | SchemaForm | RegexForm | ChoiceForm | GrammarForm, Field(discriminator="type")
]
TextFormat: TypeAlias = Annotated[
    TextForm | JsonForm | FlatSchemaForm | RegexForm | ChoiceForm | GrammarForm, Field(discriminator="type")
]
Form: TypeAlias = TextForm | JsonForm | SchemaForm | FlatSchemaForm | RegexForm | ChoiceForm | GrammarForm


class StructuredOutputs(_Form):
    """One of them."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: Annotated[str, Field(min_length=1)] | None = None


def form_of(asked: Form | None, *others: StructuredOutputs | None) -> dict[str, Any] | None:
    """The one form that is asked for, as a `ChatRequest` has it; None is free text.

    Raises:
        BadField: there are several, or a schema is none.
    """
    forms = [] if asked is None or asked.type == "text" else [_plain(asked)]
    for other in others:
        forms += _structured(other) if other is not None else []
    if len(forms) > 1:
        raise BadField(
            f"the answer cannot follow {len(forms)} forms at once", fix="ask for one", param="response_format"
        )
    return forms[0] if forms else None


def _plain(form: Form) -> dict[str, Any]:
    plain = form.model_dump(by_alias=True, exclude_none=True)
    if isinstance(form, FlatSchemaForm):
        return {"type": plain.pop("type"), "json_schema": plain}
    return plain


def _structured(outputs: StructuredOutputs) -> list[dict[str, Any]]:
    forms: list[dict[str, Any]] = []
    if outputs.json_ is not None:
        forms.append(
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": _schema(outputs.json_)}}
        )
    for kind in ("regex", "choice", "grammar"):
        value = getattr(outputs, kind)
        if value is not None:
            forms.append({"type": kind, kind: value})
    return forms


def _schema(told: dict[str, Any] | str) -> dict[str, Any]:
    try:
        schema = strict_json.loads(told) if isinstance(told, str) else told
        if not isinstance(schema, dict):
            raise ValueError(f"a schema is an object, not {json.dumps(schema)[:40]}")
        return valid_schema(schema)
    except (InvalidInput, ValueError) as error:
        raise BadField(str(error), fix="see json-schema.org", param="structured_outputs.json") from None
