"""How models write tool calls: as a value, as a form that the engine enforces, and read back."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from manta.messages import ToolSpec
from serve_app.backends.closed_schema import closed
from serve_app.engine.forms.form import ANY_TEXT, Form, json_body, literal

# A weak model might call without end.
MAX_CALLS = 16
_NAME = "%s"


@dataclass(frozen=True, slots=True)
class CallStyle:
    """`marker opening call (between call)* closing`, where a call is `head` with its name, arguments, `tail`.

    Free text ends where the marker comes; if it is `anchored`, only at the answer's very beginning.
    `between` None: there is one call at most.
    """

    marker: str
    head: str
    tail: str
    between: str | None
    opening: str = ""
    closing: str = ""
    anchored: bool = False

    def form(
        self, tools: Sequence[ToolSpec], marks: Mapping[str, int], *, several: bool, lenient: bool
    ) -> Form:
        """The calls, without the marker: one, or if `several` one or more. `marks`: see `literal`."""
        names = [f"call_{index}" for index in range(len(tools))]
        rules = [f"tool_call: {' | '.join(names)}"]
        for rule, tool in zip(names, tools, strict=True):
            head = literal(self.head.replace(_NAME, _escaped(tool.name)), marks)
            arguments = json_body(closed(tool.parameters), lenient=lenient)
            rules.append(f"{rule}: {head} {arguments} {literal(self.tail, marks)}")
        more = ""
        if several and self.between is not None:
            more = f"({literal(self.between, marks)} tool_call){{0,{MAX_CALLS - 1}}}"
        ends = literal(self.opening, marks), literal(self.closing, marks)
        return Form(f"{ends[0]} tool_call {more} {ends[1]}", tuple(rules))

    def forced(self, calls: Form, marks: Mapping[str, int]) -> Form:
        """Calls and nothing else."""
        return calls.after(literal(self.marker, marks), ())

    def offered(self, calls: Form, marks: Mapping[str, int]) -> Form:
        """Any text, or calls, or text and then calls."""
        mark = literal(self.marker, marks)
        lead = mark if self.anchored else f"FREE_TEXT {mark}"
        # A mark is no text, and so ends it anyway.
        kind = "lead" if self.marker in marks else "lead[lazy]"
        led = calls.after("lead", (f"{kind}: {lead}", f"FREE_TEXT: {ANY_TEXT}"))
        return Form("FREE_TEXT") | led

    def read(self, text: str) -> tuple[str, dict[str, Any], str] | None:
        """The first call in a text behind the marker: name, arguments, and what follows. None while it is incomplete.

        The text has this form, as far as it goes.
        """
        text = text.removeprefix(self.between or "").removeprefix(self.opening)
        before, _, behind = self.head.partition(_NAME)
        head = re.search(f"{re.escape(before)}(.+?){re.escape(behind)}", text)
        if head is None or "}" not in text[head.end() :]:
            return None
        try:
            arguments, end = json.JSONDecoder().raw_decode(text, head.end())
        except ValueError:
            # They may go on: a string holds a brace, say.
            return None
        if not text.startswith(self.tail, end):
            return None
        return _unescaped(head[1]), arguments, text[end + len(self.tail) :]


def _escaped(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)[1:-1]


def _unescaped(name: str) -> str:
    text: str = json.loads(f'"{name}"')
    return text


HERMES = CallStyle(
    marker="<tool_call>",
    head='\n{"name": "%s", "arguments": ',
    tail="}\n</tool_call>",
    between="\n<tool_call>",
)
"""Nous Hermes, Qwen 2.5, Qwen 3; and models that were not trained on calls."""

LISTED = CallStyle(
    marker="<tool_call>",
    opening="[",
    head='{"name": "%s", "arguments": ',
    tail="}",
    between=", ",
    closing="]</tool_call>",
)
"""SmolLM2 as published by its authors."""

MISTRAL = CallStyle(
    marker="[TOOL_CALLS]",
    opening="[",
    head='{"name": "%s", "arguments": ',
    tail="}",
    between=", ",
    closing="]",
)
MISTRAL_SPACED = replace(MISTRAL, opening=" [")
MISTRAL_ARGS = CallStyle(marker="[TOOL_CALLS]", head="%s[ARGS]", tail="", between="[TOOL_CALLS]")
"""Mistral's templates since 2025."""

LLAMA = CallStyle(marker='{"name": "', head='%s", "parameters": ', tail="}", between=None, anchored=True)
"""Llama 3.1 to 3.3, one call at a time."""


def style_of(template: str) -> CallStyle | None:
    """The style that a chat template's source shows; None for one that is not known here."""
    if "[TOOL_CALLS]" in template:
        if "[ARGS]" in template:
            return MISTRAL_ARGS
        return MISTRAL_SPACED if "[TOOL_CALLS] " in template else MISTRAL
    if "<tool_call>" in template and "<function=" not in template:
        return LISTED if "<tool_call>[" in template else HERMES
    if "tool_calls" in template and '"parameters": ' in template:
        return LLAMA
    return None
