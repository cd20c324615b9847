"""Grounding: which sentences the passages that were read support, and which do not. Pure functions.

The check is lexical. A sentence is compared with every run of up to three neighbouring sentences of every
passage, and stands only when one of those runs holds its content words, its numbers, its names, and the same
polarity. What this cannot see: a claim that uses the words of a passage in another relation ("A starts B" for
"B starts A"), irony, a condition left out, and a true paraphrase in other words, which is dropped. It
errs on the side of dropping, because verbatim quotations can always take the place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.sentences import (
    clean,
    content_stems,
    identifiers,
    is_negated,
    is_prose,
    numbers,
    same,
    split_sentences,
)
from manta.messages import DroppedSentence, Passage, Sentence

WINDOW = 3
"""Neighbouring sentences a claim may draw on: a claim merges two or three, an invention merges a page."""

COVERAGE = 0.7
"""Least share of content words found in one window. Faithful sentences of small and large models lay at
0.75 to 1.0 on documentation; sentences with an invented mechanism at 0.3 to 0.6."""

ORDER = 0.5
"""Least share of the found words that stand in the window's own order: word salad passes coverage, not this."""

ALSO = 0.9
"""A second passage is cited too when it supports the sentence at least this well relative to the best one."""

_OPPOSITES = (
    ("increas", "decreas"), ("add", "remov"), ("rais", "lower"), ("up", "down"), ("upscal", "downscal"),
    ("minim", "maxim"), ("min", "max"), ("befor", "after"), ("more", "less"), ("abov", "below"),
    ("high", "low"), ("higher", "lower"), ("start", "stop"), ("enabl", "disabl"), ("alway", "never"),
    ("fast", "slow"), ("faster", "slower"), ("first", "last"), ("open", "close"), ("least", "most"),
    ("grow", "shrink"), ("ris", "fall"), ("gain", "lose"), ("import", "export"), ("allow", "forbid"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """`citations`: ids of the passages that support the sentence, best first; empty with a `reason` when none does."""

    citations: tuple[str, ...] = ()
    score: float = 0.0
    reason: str = ""

    @property
    def supported(self) -> bool:
        return bool(self.citations)


@dataclass(frozen=True, slots=True)
class Grounded:
    kept: tuple[Sentence, ...]
    dropped: tuple[DroppedSentence, ...]


def judge(sentence: str, passages: Sequence[Passage]) -> Verdict:
    """Whether a passage supports the sentence, and which. Without passages nothing is supported."""
    scored = [
        (score, passage, reason)
        for passage in passages
        for score, reason in [_support(sentence, passage.text)]
    ]
    good = sorted(((s, p) for s, p, reason in scored if not reason), key=lambda pair: -pair[0])
    if good:
        best = good[0][0]
        return Verdict(tuple(p.id for s, p in good[:2] if s >= ALSO * best), best)
    if not scored:
        return Verdict(reason="no passage was read")
    score, _, reason = max(scored, key=lambda item: item[0])
    return Verdict((), score, reason)


def ground(text: str, passages: Sequence[Passage], *, echoes: Iterable[str] = ()) -> Grounded:
    """Check a model's text sentence by sentence.

    Args:
        text: what the model wrote.
        passages: what it was given to read.
        echoes: the question and the prompt's own lines; a sentence that only repeats one is no claim.
    """
    kept: list[Sentence] = []
    dropped: list[DroppedSentence] = []
    prompts = [line for echo in echoes for line in [echo, *split_sentences(echo)]]
    for raw in split_sentences(text):
        sentence = clean(raw)
        reason = _unfit(sentence, prompts) or _repeated(sentence, kept)
        verdict = Verdict(reason=reason) if reason else judge(sentence, passages)
        if verdict.supported:
            kept.append(Sentence(sentence, verdict.citations, "model"))
        elif sentence:
            dropped.append(DroppedSentence(sentence, verdict.reason))
    return Grounded(tuple(kept), tuple(dropped))


def _unfit(sentence: str, prompts: Sequence[str]) -> str:
    if any(same(sentence, line, 0.95) for line in prompts if len(content_stems(line)) >= 3):
        return "repeats the question or the prompt"
    return "" if is_prose(sentence) and not sentence.endswith("?") else "is not a complete sentence of prose"


def _repeated(sentence: str, kept: Sequence[Sentence]) -> str:
    return "repeats an earlier sentence" if any(same(sentence, other.text) for other in kept) else ""


def _support(sentence: str, passage: str) -> tuple[float, str]:
    """The coverage of the best window and why it does not hold; an empty reason is support."""
    best = (0.0, "shares no words with the passages")
    for window in _windows(passage):
        score, reason = _compare(sentence, window)
        # A window that supports beats a better covered one that contradicts only when no window contradicts less:
        # the widest windows come last, so ties go to the narrow ones.
        if (not reason, score) > (not best[1], best[0]):
            best = (score, reason)
    return best


def _windows(passage: str) -> list[str]:
    sentences = [clean(s) for s in split_sentences(passage)]
    return [
        " ".join(sentences[start : start + size])
        for size in range(1, WINDOW + 1)
        for start in range(max(1, len(sentences) - size + 1))
    ]


def _compare(sentence: str, window: str) -> tuple[float, str]:
    claimed, there = content_stems(sentence), content_stems(window)
    if not claimed:
        return 0.0, "says nothing that can be checked"
    present = set(there)
    score = sum(word in present for word in claimed) / len(claimed)
    missing = numbers(sentence) - numbers(window)
    if missing:
        return score, f"the number {sorted(missing)[0]} is in no passage beside these words"
    names = {name for name in identifiers(sentence) - identifiers(window) if name not in window.lower()}
    if names:
        return score, f"the name {sorted(names)[0]} is in no passage beside these words"
    if score < COVERAGE:
        absent = next(word for word in claimed if word not in present)
        return score, f"only {score:.0%} of its words are in a passage (not '{absent}')"
    if _in_order(claimed, there) < ORDER:
        return score, "its words stand in another order than in the passage"
    return score, _contradiction(sentence, window)


def _contradiction(sentence: str, window: str) -> str:
    near = _nearest(sentence, window)
    if is_negated(sentence) != is_negated(near):
        return "its negation differs from the passage"
    ours, theirs = set(_stems(sentence)), set(_stems(window))
    for pair in _OPPOSITES:
        for here, there in (pair, pair[::-1]):
            if here in ours and here not in theirs and there in theirs and there not in ours:
                return f"says '{here}' where the passage says '{there}'"
    return ""


def _nearest(sentence: str, window: str) -> str:
    """The sentence of the window that shares most words: negation is compared with this one alone."""
    claimed = set(content_stems(sentence))
    return max(split_sentences(window) or [window], key=lambda s: len(claimed & set(content_stems(s))))


def _stems(text: str) -> list[str]:
    from agents.sentences import stem, words

    return [stem(word) for word in words(text)]


def _in_order(claimed: Sequence[str], there: Sequence[str]) -> float:
    """Longest common subsequence of the words found, as a share of them."""
    found = [word for word in claimed if word in set(there)]
    previous = [0] * (len(there) + 1)
    for word in found:
        row = [0]
        for column, other in enumerate(there):
            row.append(previous[column] + 1 if word == other else max(row[-1], previous[column + 1]))
        previous = row
    return previous[-1] / len(found) if found else 1.0
