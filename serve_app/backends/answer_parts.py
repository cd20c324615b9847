"""Tells thought, text and tool calls apart in an answer that comes piece by piece."""

import uuid
from dataclasses import dataclass

from manta.errors import ModelError
from manta.messages import ToolCall
from serve_app.backends.call_style import CallStyle
from serve_app.engine.text_stream import open_end

THINK, THOUGHT = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Parts:
    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()


class _Until:
    """Passes text on until one of the marks comes. Keeps back what may begin one, and blanks before it.

    `anchored`: the mark counts only where the text begins.
    """

    def __init__(self, *marks: str, anchored: bool = False) -> None:
        self._marks = tuple(filter(None, marks))
        self._anchored = anchored
        self._held = ""
        self.found = ""

    def push(self, text: str) -> tuple[str, str]:
        """What is certainly before the mark, and once it was `found` what is behind it."""
        self._held += text
        if self._anchored and not any(_agree(self._held, mark) for mark in self._marks):
            self._marks = ()
        places = [(at, mark) for mark in self._marks if (at := self._held.find(mark)) >= 0]
        if places:
            at, self.found = min(places)
            before, behind = self._held[:at], self._held[at + len(self.found) :]
            self._held = ""
            return before.rstrip(), behind
        kept = max((open_end(self._held, mark) for mark in self._marks), default=0)
        sure = self._held[: len(self._held) - kept].rstrip() if self._marks else self._held
        self._held = self._held[len(sure) :]
        return sure, ""

    def flush(self) -> str:
        rest, self._held = self._held, ""
        return rest


def _agree(text: str, mark: str) -> bool:
    """Whether the text begins with the mark, or may yet."""
    return text.startswith(mark) or mark.startswith(text)


class _Thoughts:
    """Takes the thought off an answer's beginning. `opened`: the prompt already ends inside of it."""

    def __init__(self, opened: bool, call_marker: str) -> None:
        self._state = "thinking" if opened else "beginning"
        self._held = ""
        self._thought = _Until(THOUGHT, call_marker)
        self._marker = call_marker
        self._fresh = True

    @property
    def thinking(self) -> bool:
        return self._state != "answering"

    def push(self, text: str) -> tuple[str, str]:
        """Thought and answer."""
        if self._state == "beginning":
            self._held += text
            begun = self._held.lstrip()
            if THINK.startswith(begun):
                return "", ""
            if not begun.startswith(THINK):
                self._state, self._fresh = "answering", False
                return "", self._held
            self._state, text = "thinking", begun.removeprefix(THINK)
        if self._state == "answering":
            return "", self._without_first_blanks(text)
        thought, behind = self._thought.push(text)
        thought = self._without_first_blanks(thought)
        if not self._thought.found:
            return thought, ""
        self._state, self._fresh = "answering", True
        if self._thought.found == self._marker:
            behind = self._marker + behind
        return thought, self._without_first_blanks(behind)

    def finish(self) -> tuple[str, str]:
        if self._state == "beginning":
            return "", self._held
        return (self._thought.flush(), "") if self._state == "thinking" else ("", "")

    def _without_first_blanks(self, text: str) -> str:
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return text


class AnswerParts:
    """An answer's parts. `style`: calls may come, in this style. `thinks`: a thought may come first.

    Raises ModelError for a call that is not what the form of calls allows.
    """

    def __init__(self, style: CallStyle | None, *, thinks: bool = False, opened: bool = False) -> None:
        self._style = style
        marker = "" if style is None else style.marker
        self._thoughts = _Thoughts(opened, marker) if thinks else None
        self._text = _Until(marker, anchored=style is not None and style.anchored)
        self._call = ""
        self.called = False

    @property
    def in_text(self) -> bool:
        """Whether what comes now is the answer's text, neither thought nor call."""
        return not self._text.found and not (self._thoughts is not None and self._thoughts.thinking)

    def push(self, text: str) -> Parts:
        thought, answer = ("", text) if self._thoughts is None else self._thoughts.push(text)
        return self._part(thought, answer)

    def finish(self) -> Parts:
        """What was kept back, now that nothing follows. An incomplete call is left out."""
        thought, answer = ("", "") if self._thoughts is None else self._thoughts.finish()
        last = self._part(thought, answer)
        return Parts(last.text + self._text.flush(), last.reasoning, last.calls)

    def _part(self, thought: str, answer: str) -> Parts:
        if self._style is None or not answer:
            return Parts(answer, thought)
        if self._text.found:
            return Parts("", thought, self._calls(answer))
        text, behind = self._text.push(answer)
        return Parts(text, thought, self._calls(behind) if self._text.found else ())

    def _calls(self, text: str) -> tuple[ToolCall, ...]:
        assert self._style is not None
        self._call += text
        calls = []
        while (read := self._style.read(self._call)) is not None:
            name, arguments, self._call = read
            if not isinstance(arguments, dict):
                raise ModelError(f"the model called {name!r} with what is no object", fix="try again")
            calls.append(ToolCall(f"call_{uuid.uuid4().hex[:24]}", name, arguments))
            self.called = True
        return tuple(calls)
