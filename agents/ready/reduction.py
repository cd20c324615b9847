"""Many texts to one answer: read in pieces, then merged in groups, none larger than the model's window.

The graph `map_reduce` asks the prompts; what is made of texts and answers between them is here.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from agents.asking import is_weak
from agents.grounding import PLAIN, STRICT, ground
from agents.quotes import quote
from agents.ready.fitting import frame
from agents.sentences import clean, content_stems, is_new, is_prose, split_sentences
from manta.errors import InvalidInput
from manta.messages import Passage
from manta.protocols import AgentContext

WEAK_TOKENS, ABLE_TOKENS = 700, 6000
"""Tokens of text in one prompt: a small model copies the beginning of a long text and loses its end."""
MAX_PIECES = 500
_NOTHING = "nothing"


async def pieces(
    context: AgentContext,
    before: str,
    answer_tokens: int,
    after: str = "",
    texts: Sequence[str] | None = None,
    collection: str | None = None,
    piece_tokens: int | None = None,
    model: str = "",
) -> dict[str, Any]:
    """The given texts and a collection's documents in pieces, each with the prompt that asks about it.

    Args:
        before, after: the prompt around a piece.
        piece_tokens: of a piece at most; null goes by the model.
        model: whose tokens count; empty is the task's own.

    Returns:
        `{pieces: [{document, text, prompt}], documents}`; `document` is null for a given text.

    Raises:
        InvalidInput: there is no text, or too much of it.
        NotFound: no such collection.
    """
    asked = context.model_named(model)
    weak = is_weak(await asked.info())
    most = piece_tokens or (WEAK_TOKENS if weak else ABLE_TOKENS)
    around = await frame(asked, before, after, answer_tokens, most)
    sources: list[tuple[str | None, str]] = [(None, text) for text in texts or ()]
    if collection:
        for name in await context.documents.names(collection):
            sources.append((name, await context.documents.text(collection, name)))
    found: list[dict[str, Any]] = []
    for source, text in sources:
        found += [{"document": source, **asdict(around.fitted([p]))} for p in await around.pieces(text)]
        if len(found) > MAX_PIECES:
            raise InvalidInput(
                f"the texts make more than {MAX_PIECES} pieces of {around.room} tokens",
                fix="give fewer texts, or a larger piece_tokens",
                code="too_many_pieces",
            )
    if not found:
        raise InvalidInput("there is no text to read", fix="give texts or a collection", code="no_text")
    return {"pieces": found, "documents": len(sources)}


async def groups(
    context: AgentContext,
    texts: Sequence[str],
    before: str,
    answer_tokens: int,
    after: str = "",
    model: str = "",
) -> list[dict[str, Any]]:
    """Texts that are merged together, as `[{text, prompt}]`: half as many as there were texts, or fewer.

    A text over half of the room is shortened. Texts without words are left out, and what is there twice comes once.

    Raises:
        InvalidInput: the window has no room for texts.
    """
    asked = context.model_named(model)
    most = WEAK_TOKENS if is_weak(await asked.info()) else None
    around = await frame(asked, before, after, answer_tokens, most)
    told = list(dict.fromkeys(text for text in texts if text and text.strip()))
    return [asdict(around.fitted(group)) for group in await around.groups(told)]


async def checked(
    context: AgentContext,
    said: str | None,
    text: str,
    question: str | None = None,
    sentences: int = 2,
    speaks: bool = False,
    model: str = "",
) -> dict[str, Any]:
    """An answer about a text, held against it.

    Of a weak model's answer only the sentences stand that the text supports and, with a question, that have a
    word of it; where they are few the text is quoted. An able model's answer is left as it is, and what the
    text does not support is named.

    Args:
        sentences: up to how many a weak model's answer is filled with quotations.
        speaks: the text is known to be about the question, so that something of it is always told.

    Returns:
        `{text, dropped, unsupported}`: the sentences taken out, and those in it that the text does not support.
    """
    said = (said or "").strip()
    weak = is_weak(await context.model_named(model).info())
    passage = Passage("text", "", 0, len(text), text)
    grounded = ground(said, [passage], STRICT if weak else PLAIN, echoes=[question] if question else [])
    doubted = [sentence.text for sentence in grounded.dropped]
    if not weak:
        nothing = said.strip(" .!").casefold() == _NOTHING
        return {"text": "" if nothing else said, "dropped": [], "unsupported": [] if nothing else doubted}
    kept = [_unquoted(s.text) for s in grounded.kept if not question or _shares(s.text, question)]
    told = _filled(kept, passage, question, sentences, speaks)
    return {"text": " ".join(told), "dropped": doubted, "unsupported": []}


def _unquoted(sentence: str) -> str:
    """Without a quotation mark that lost its other one when the answer was taken apart."""
    return sentence.replace('"', "") if sentence.count('"') % 2 else sentence


def _shares(sentence: str, question: str) -> bool:
    asked = set(content_stems(question))
    return not asked or bool(asked & set(content_stems(sentence)))


def _filled(kept: list[str], passage: Passage, question: str | None, count: int, speaks: bool) -> list[str]:
    told = kept[:count]
    if question:
        told += [s.text for s in quote(question, [passage], count - len(told), beside=told)]
    if not question or (speaks and not told):
        for sentence in map(clean, split_sentences(passage.text)):
            if len(told) < count and is_prose(sentence) and is_new(sentence, told):
                told.append(sentence)
    return told
