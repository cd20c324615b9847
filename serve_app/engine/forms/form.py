"""Forms as values, put together from parts. No torch and no llguidance here, so anyone may build one."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# As models and `json.dumps` write it. Free whitespace would let a weak model write nothing else.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# An escaped character is taken whole, so that an escaped slash is not escaped again.
_CHANGED_IN_LARK = re.compile(r"\\[\s\S]|/|\n")

ANY_TEXT = r"/(.|\n)*/"
"""The Lark pattern of any text."""


@dataclass(frozen=True, slots=True)
class Form:
    """A grammar in llguidance's notation: `body` says what the output is, in Lark with `%json` and `<[token id]>`.

    `rules` are further Lark rules that it uses; `grammars` are whole Lark grammars, by the name after `@`.
    """

    body: str
    rules: tuple[str, ...] = ()
    grammars: tuple[tuple[str, str], ...] = ()

    @property
    def grammar(self) -> str:
        """What llguidance compiles."""
        lark = "\n".join((f"start: {self.body}", *self.rules))
        if not self.grammars:
            return lark
        parts = [{"name": name, "lark_grammar": text} for name, text in (("main", lark), *self.grammars)]
        return json.dumps({"grammars": parts})

    def after(self, body: str, rules: tuple[str, ...]) -> "Form":
        """This form behind something else."""
        return Form(f"{body} ({self.body})", (*self.rules, *rules), self.grammars)

    def __or__(self, other: "Form") -> "Form":
        """Either of two; their rules must have different names."""
        rules, grammars = (*self.rules, *other.rules), (*self.grammars, *other.grammars)
        return Form(f"({self.body}) | ({other.body})", rules, grammars)


def json_object() -> Form:
    """Any JSON object, on one line."""
    return json_schema({"type": "object"})


def json_schema(schema: Mapping[str, Any], *, lenient: bool = False) -> Form:
    """JSON that the schema allows, on one line. `lenient`: keywords llguidance does not know are passed over."""
    return Form(json_body(schema, lenient=lenient))


def regex(pattern: str) -> Form:
    """Text that the regular expression matches from end to end. `\\d` is one of ten digits, as in JSON Schema."""
    escaped = {"/": r"\/", "\n": r"\n", "\\\n": r"\n", r"\d": "[0-9]", r"\D": "[^0-9]"}
    lark_pattern = _CHANGED_IN_LARK.sub(lambda found: escaped.get(found[0], found[0]), pattern)
    return Form(f"/{lark_pattern}/")


def choice(texts: Sequence[str]) -> Form:
    """One of the texts."""
    return Form(" | ".join(quoted(text) for text in texts))


def lark(grammar: str) -> Form:
    """What a Lark grammar with a rule `start` allows."""
    return Form("@form", grammars=(("form", grammar),))


def json_body(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """A JSON Schema as an item of a Lark rule."""
    options = {**_JSON_STYLE, "lenient": True} if lenient else _JSON_STYLE
    return f"%json {_json({**schema, 'x-guidance': options})}"


def quoted(text: str) -> str:
    """Text as an item of a Lark rule."""
    return _json(text)


def _json(value: Any) -> str:
    # The one character that JSON leaves as it is and llguidance's Lark refuses.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def literal(text: str, marks: Mapping[str, int]) -> str:
    """Text as items of a Lark rule, none for no text. Where it holds a mark (see `Tokenizer.marks`) that is meant."""
    known = "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
    parts = re.split(f"({known})", text) if known else [text]
    return " ".join(f"<[{marks[part]}]>" if part in marks else quoted(part) for part in parts if part)
