"""Compiles forms for one model's vocabulary, by llguidance."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from manta.errors import InvalidInput, ModelError
from serve_app.engine.forms.form import Form
from serve_app.engine.forms.guide import Guide
from serve_app.engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_KEPT = 64


class FormCompiler:
    """Keeps the forms used last. Every method may be called from any thread, and may take its time."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = sorted(end_ids)
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def prepare(self, form: Form) -> None:
        """Compile the form if it is not kept already. Raises as `guide` does."""
        self._matcher(form.grammar)

    def guide(self, form: Form) -> Guide:
        """A guide at the beginning of the form.

        Raises:
            InvalidInput: the form's grammar, schema or expression is broken, or llguidance does not support it.
            ModelError: llguidance is not installed.
        """
        matcher = self._matcher(form.grammar)
        with self._lock:
            return Guide(matcher.deep_copy(), self._vocab_size)

    def _matcher(self, grammar: str) -> "LLMatcher":
        with self._lock:
            kept = self._compiled.get(grammar)
            if kept is not None:
                self._compiled.move_to_end(grammar)
                return kept
        # Outside the lock: a large schema takes long, and others need not wait for it.
        matcher = self._compile(grammar)
        with self._lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return matcher

    def _compile(self, grammar: str) -> "LLMatcher":
        with self._reading:
            vocabulary = self._vocabulary
        from llguidance import LLMatcher

        matcher = LLMatcher(vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidInput(
                f"the form of the answer cannot be used: {_cause(matcher.get_error())}",
                fix="mend it, or leave out what llguidance does not support",
            )
        return matcher

    @cached_property
    def _vocabulary(self) -> "LLTokenizer":
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            raise ModelError(
                "answers cannot be held to a form here: llguidance is missing", fix="pip install llguidance"
            ) from error
        return LLTokenizer(
            self._tokenizer.to_json(), n_vocab=self._vocab_size, eos_token=self._end_ids or None
        )


def _cause(text: str) -> str:
    """llguidance's words, without the place in a grammar that the caller never saw."""
    cause, _, _ = text.partition("\n   1 | ")
    place, _, rest = cause.partition(": ")
    return " ".join((rest if place.startswith("at ") else cause).split())[:300]
