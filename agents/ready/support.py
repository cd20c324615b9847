"""A conversation over documents: what was asked, what it means alone, and the answer with its sources.

The graph `support_chat` has a model rewrite the question and the research agent look it up; a rewritten
question is taken only where it asks the same.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agents.cited import cited
from agents.conversation import chat_messages
from agents.sentences import STOP_WORDS, clean, content_stems, numbers, split_sentences
from manta.errors import InvalidInput
from manta.messages import ChatMessage, Finding, from_json

DOES_NOT_KNOW = "I do not know: the documents say nothing about that."
MAX_QUESTION = 1000
"""Characters of a question that are looked up."""
_SENTENCES = 4
"""Sentences of one answer."""
_TURNS, _TURN = 6, 400
"""Messages of the past that a question may lean on, and the characters of each that are shown."""
_LOST = 0.25
"""Most of a question's own words that its rewriting may lose."""
_FULL = 3
"""Words with meaning from which on a question without a pronoun stands alone."""
_SUBJECT = 6
"""Words of the conversation that a question may be given."""
_PRONOUN = re.compile(r"\b(?:it|they|them|this|that|these|those|its|their|he|she|one|ones)\b", re.I)
_WORD = re.compile(r"[\w'-]+")


def turn(
    question: str | None = None,
    messages: Sequence[Any] | None = None,
    thread: Mapping[str, Any] | None = None,
    collection: str | None = None,
) -> dict[str, Any]:
    """What a run of the graph is about.

    Args:
        question: the new message as text, in place of `messages` or behind them.
        messages: the new messages; those of the thread may come with them once more.
        thread: `{id, messages, values}`, or null.
        collection: null is the one that the thread used before.

    Returns:
        `{question, history, asked, collection}`: `history` is the past as text, empty where the question needs
        none; `asked` are the messages that came as `question`, which the thread does not know yet.

    Raises:
        InvalidInput: nobody asks anything, or no collection is named.
    """
    thread = thread or {}
    past = chat_messages(thread.get("messages"))
    new = chat_messages(messages)
    if past and new[: len(past)] == past:
        new = new[len(past) :]
    asked = (ChatMessage("user", question),) if question and question.strip() else ()
    said = [message for message in (*past, *new, *asked) if message.role != "system"]
    if not (new or asked) or said[-1].role != "user":
        raise InvalidInput("there is no question", fix="end messages with one of the role user")
    collection = collection or (thread.get("values") or {}).get("collection")
    if not collection:
        raise InvalidInput("no documents are named", fix="give a collection", code="no_collection")
    asking = _shortened(said[-1].content, MAX_QUESTION)
    return {
        "question": asking,
        "history": "" if _stands_alone(asking) else "\n".join(map(_line, said[:-1][-_TURNS:])),
        "asked": [{"role": "user", "content": message.content} for message in asked],
        "collection": collection,
    }


def standalone(question: str, history: str = "", rewritten: str | None = None) -> str:
    """The question as it can be understood without the conversation.

    A model's rewriting is taken if it is a question that keeps this one's words and adds a few of the
    conversation; else a question that leans on the past is given the subject of the last one.
    """
    if not history or _stands_alone(question):
        return question
    proposal = clean((rewritten or "").strip().partition("\n")[0]).strip("\"'")
    if _same_question(question, history, proposal):
        return proposal
    subject = _subject(history, question)
    return f"{question} ({subject})" if subject else question


def reply(
    finding: Mapping[str, Any], asked: Sequence[Mapping[str, Any]], question: str, collection: str
) -> dict[str, Any]:
    """The answer to show, made of a finding's sentences, each with the number of its source.

    Returns:
        `{answer, known, sources, messages, question, collection}`: a source is
        `{id, document, start, end, text}`; `messages` are what the thread does not know yet.
    """
    found = from_json(Finding, finding)
    sentences, sources = cited(found.sentences[:_SENTENCES], found.passages)
    answer = " ".join(sentences) or DOES_NOT_KNOW
    return {
        "answer": answer,
        "known": bool(sentences),
        "sources": sources,
        "messages": [*asked, {"role": "assistant", "content": answer}],
        "question": question,
        "collection": collection,
    }


def _stands_alone(question: str) -> bool:
    return len(content_stems(question)) >= _FULL and not _PRONOUN.search(question)


def _same_question(question: str, history: str, proposal: str) -> bool:
    own, said, past = (set(content_stems(text)) for text in (question, proposal, history))
    return (
        proposal.endswith("?")
        and len(split_sentences(proposal)) == 1
        and bool(said)
        and len(said - own) <= _SUBJECT
        and len(own - said) <= _LOST * len(own)
        and said - own <= past
        and numbers(question) <= numbers(proposal) <= numbers(question) | numbers(history)
    )


def _subject(history: str, question: str) -> str:
    """Words with meaning of the last question before this one that this one does not have."""
    asked = [line for line in history.splitlines() if line.startswith("User: ")]
    own = {word.lower() for word in _WORD.findall(question)} | STOP_WORDS
    words = _WORD.findall(asked[-1].removeprefix("User: ")) if asked else []
    return " ".join([word for word in words if word.lower() not in own][:_SUBJECT])


def _line(message: ChatMessage) -> str:
    who = "User" if message.role == "user" else "Assistant"
    return f"{who}: {_shortened(message.content, _TURN)}"


def _shortened(text: str, characters: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= characters else text[:characters].rsplit(" ", 1)[0]
