"""The planner: a question becomes the few questions that are looked up for it.

The question's own clauses are always among them, because a weak model may answer with anything. What the
model proposes is taken only where it is a question, speaks of the same things, and is not there yet.
"""

import re
from collections.abc import Iterable
from typing import Any

from agents.asking import ask
from agents.base import AgentSetup
from agents.prompting import load_prompt
from agents.sentences import STOP_WORDS, clean, content_stems, numbers, same
from manta.errors import InvalidInput
from manta.protocols import AgentContext

DEFAULT_QUESTIONS = 3
MOST_QUESTIONS = 12
_ASKING = "how|what|which|why|when|where|who|whose|is|are|do|does|did|can|could|should|will|would|has|have"
_CLAUSES = re.compile(
    rf"\?\s+|;\s+|[,;]?\s+(?:and|or|but)\s+(?=(?:{_ASKING})\b)|,\s+(?=(?:{_ASKING})\b)", re.I
)
_PRONOUN = re.compile(r"\b(?:it|they|them|this|these|its|their)\b", re.I)
_MAX_TOKENS = 90


class Planner:
    """Input `{question, max_questions?}`; output `{"questions": [str, ...]}`, at least one."""

    def __init__(self, setup: AgentSetup) -> None:
        self._setup = setup

    async def run(self, context: AgentContext) -> Any:
        """Raises InvalidInput for an empty question or a count that is none."""
        question = " ".join(str(context.task.input.get("question") or "").split())
        if not content_stems(question):
            raise InvalidInput("the question is empty", fix="ask in words what you want to know")
        count = _count(context.task.input.get("max_questions"))
        own = clauses(question)[:count]
        if len(own) >= count:
            return {"questions": own}
        messages = load_prompt("plan").messages(question=question, count=count)
        proposed = await ask(context, messages, max_tokens=_MAX_TOKENS, stop=("\n\n",))
        return {"questions": [*own, *accepted(proposed.splitlines(), question, own)][:count]}


def clauses(question: str) -> list[str]:
    """The questions a question consists of, each readable by itself; every content word is in one of them."""
    parts = [part.strip(" ,;?.") for part in _CLAUSES.split(question)]
    parts = [part for part in parts if part]
    # A part with hardly a word of its own belongs to the one before it.
    whole: list[str] = []
    for part in parts:
        if whole and len(content_stems(part)) < 2 and not _PRONOUN.search(part):
            whole[-1] = f"{whole[-1]} and {part}"
        else:
            whole.append(part)
    subject = _subject(whole[0])
    return [_as_question(part, subject if number else "") for number, part in enumerate(whole)]


def accepted(proposals: Iterable[str], question: str, own: Iterable[str]) -> list[str]:
    """The proposals that are questions about the same things and not there yet."""
    asked, kept = set(content_stems(question)), list(own)
    before = len(kept)
    for line in proposals:
        proposal = clean(re.sub(r"^\s*(?:question\s*)?\d+[.):]\s*", "", line, flags=re.I))
        stems = set(content_stems(proposal))
        fits = (
            proposal.endswith("?")
            and re.match(rf"(?:{_ASKING})\b", proposal, re.I)
            and len(proposal) <= 160
            and 2 <= len(stems) <= 14
            and len(stems & asked) >= max(2, (len(stems) + 1) // 2)
            and numbers(proposal) <= numbers(question)
        )
        if fits and not any(same(proposal, other, 0.75) for other in [*kept, question]):
            kept.append(proposal)
    return kept[before:]


def _count(given: Any) -> int:
    if given is None:
        return DEFAULT_QUESTIONS
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_QUESTIONS:
        raise InvalidInput(
            f"max_questions is {given!r}", fix=f"give a whole number from 1 to {MOST_QUESTIONS}"
        )
    return given


def _as_question(part: str, subject: str) -> str:
    if subject and _PRONOUN.search(part) and subject.lower() not in part.lower():
        part = _PRONOUN.sub(lambda m: f"{m[0]} ({subject})", part, count=1)
    return f"{part[:1].upper()}{part[1:]}?"


def _subject(clause: str) -> str:
    """The first run of words with meaning in a clause: what a pronoun in a later clause most likely stands for."""
    run: list[str] = []
    for word in re.findall(r"[\w'-]+", clause):
        if word.lower() in STOP_WORDS:
            if run:
                break
        else:
            run.append(word)
    return " ".join(run[:4])
