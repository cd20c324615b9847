"""What a model's chat template and tokenizer tell of its tool calls and thoughts, and what follows for a request."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from manta.errors import InvalidInput
from manta.messages import ChatMessage, ChatRequest, ToolSpec
from serve_app.backends.answer_parts import THINK, THOUGHT, AnswerParts
from serve_app.backends.asked_form import asked_form
from serve_app.backends.call_style import HERMES, CallStyle, style_of
from serve_app.backends.tool_prompt import native_messages, native_tools, text_messages
from serve_app.engine.engine import Engine
from serve_app.engine.forms.form import ANY_TEXT, Form, literal

_PROBE = ToolSpec("probe_of_the_template", "", {"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read an answer: with calls in this `style` or none, and whether its beginning is a thought."""

    style: CallStyle | None = None
    thinks: bool = False
    opened: bool = False

    def parts(self) -> AnswerParts:
        return AnswerParts(self.style, thinks=self.thinks, opened=self.opened)


class Dialect:
    """One loaded model's ways."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._marks = engine.bundle.tokenizer.marks

    @cached_property
    def native(self) -> bool:
        """Whether the model's own template renders tools, in a style that is known here."""
        template = self._engine.bundle.template
        if template is None or style_of(template.source) is None:
            return False
        try:
            text = self._engine.render_text([{"role": "user", "content": "x"}], native_tools([_PROBE]))
        except InvalidInput:
            return False
        return _PROBE.name in text

    @cached_property
    def style(self) -> CallStyle:
        template = self._engine.bundle.template
        known = style_of(template.source) if template is not None and self.native else None
        return known or HERMES

    @cached_property
    def thinks(self) -> bool:
        """Whether the model writes its thoughts into `<think>`."""
        tokenizer, template = self._engine.bundle.tokenizer, self._engine.bundle.template
        told = template is not None and THINK in template.source
        return told or (tokenizer.id_of(THINK) is not None and tokenizer.id_of(THOUGHT) is not None)

    def render(self, messages: Sequence[ChatMessage], tools: Sequence[ToolSpec] = ()) -> str:
        """The prompt's text. Raises InvalidInput."""
        if not self.native:
            return self._engine.render_text(text_messages(messages, tools, self._result_role))
        # Mistral's templates refuse longer ids.
        nine = self.style.marker == "[TOOL_CALLS]"
        return self._engine.render_text(native_messages(messages, short_ids=nine), native_tools(tools))

    @cached_property
    def _result_role(self) -> str:
        """`tool`, if the template renders that role; models read results best under it."""
        probe = [("user", "x"), ("assistant", "y"), ("tool", _PROBE.name)]
        try:
            text = self._engine.render_text([{"role": role, "content": text} for role, text in probe])
        except InvalidInput:
            return "user"
        return "tool" if _PROBE.name in text else "user"

    def reading(self, request: ChatRequest, prompt: str) -> Reading:
        opened = self.thinks and prompt.rstrip().endswith(THINK)
        return Reading(self.style if request.offered else None, self.thinks, opened)

    def hides_special_tokens(self, reading: Reading) -> bool:
        """Whether the answer's text may leave out special tokens: none of them marks a call or a thought."""
        marks = (THINK, THOUGHT) if reading.thinks else ()
        if reading.style is not None:
            marks = (*marks, reading.style.marker)
        return not any(mark in self._engine.bundle.tokenizer.special_tokens for mark in marks)

    def form(self, request: ChatRequest, reading: Reading, *, lenient: bool = False) -> Form | None:
        """What the answer is held to; None for free text. `lenient`: see `json_body`, for the tools' parameters.

        Raises:
            InvalidInput: tools, their choice or the response format cannot be used.
        """
        tools, wanted = request.offered, request.named_tool
        form = asked_form(request.response_format)
        if not tools:
            return None if form is None else self._behind_thought(form, reading)
        named = [tool for tool in tools if tool.name == wanted]
        if wanted is not None and not named:
            raise InvalidInput(f"tool_choice {wanted[:60]!r} is none of the tools", fix="name one of them")
        several = request.parallel_tool_calls and not named
        calls = self.style.form(named or tools, self._marks, several=several, lenient=lenient)
        forced = self.style.forced(calls, self._marks)
        if request.must_call:
            return self._behind_thought(forced, reading)
        if form is not None:
            return self._behind_thought(forced | form, reading)
        offered = self.style.offered(calls, self._marks)
        # Where the marks of a thought are text, any text may hold them.
        return self._behind_thought(offered, reading) if THOUGHT in self._marks else offered

    def _behind_thought(self, form: Form, reading: Reading) -> Form:
        """A model that thinks may do so before it begins the form, and must end a thought it is in."""
        if not reading.thinks:
            return form
        end = literal(THOUGHT, self._marks)
        kind = "thought" if THOUGHT in self._marks else "thought[lazy]"
        rules = (f"{kind}: THOUGHT {end}", f"THOUGHT: {ANY_TEXT}", r"blank: /\n{0,2}/")
        if reading.opened:
            return form.after("thought blank", rules)
        return form.after(f"({literal(THINK, self._marks)} thought blank)?", rules)
