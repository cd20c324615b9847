"""Grounding: which sentences the passages that were read support, and which do not. Pure functions.

The check is lexical. A sentence is compared with every run of neighbouring sentences of every passage, and
stands only when one of those runs holds its content words, most of them next to the same words as there, all
its numbers and names, and the same polarity. What this cannot see: a word swapped for another of the same
passage in a place that keeps its neighbours, a condition left out, irony; and a true paraphrase in other words
is dropped. It errs on the side of dropping, because quotations can always take the place.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from agents.sentences import (
    clean,
    content_stems,
    identifiers,
    is_negated,
    is_prose,
    leans,
    numbers,
    same,
    split_sentences,
    stem,
    without_marks,
    words,
)
from manta.messages import DroppedSentence, Passage, Sentence


@dataclass(frozen=True, slots=True)
class Rules:
    """How close to a passage a sentence must be.

    `window`: neighbouring sentences it may draw on together. `coverage`: least share of its content words
    found there. `pairs`: least share of its neighbouring content words that stand near each other there too,
    in this order: an invented relation between the passage's own words breaks these.
    """

    window: int
    coverage: float
    pairs: float


STRICT = Rules(window=2, coverage=0.9, pairs=0.75)
"""For models that declare no ability. The embedded model invents with the passage's own words: its "determines the
number of replicas based on the number of CPUs required" has 82 % of its words in the passage and breaks the pairs
around "determines", while its faithful sentences are near copies, which have nearly all of both."""

PLAIN = Rules(window=3, coverage=0.75, pairs=0.6)
"""For able models, which join and shorten what they read, and seldom invent a relation."""

NEAR = 3
"""Content words from one of a pair to the other, in the passage."""

ALSO = 0.9
"""A second passage is cited too when it supports the sentence at least this well relative to the best one."""

_CLAUSE = re.compile(
    r"[,;:()]|[.!?]\s|\b(?:and|or|but|while|whereas|although|because|when|if|unless|which|that|so)\b", re.I
)
_OPPOSITES = (
    ("increas", "decreas"), ("add", "remov"), ("rais", "lower"), ("up", "down"), ("upscal", "downscal"),
    ("minimum", "maximum"), ("min", "max"), ("reduc", "increas"), ("reduc", "rais"),
    ("befor", "after"), ("more", "less"), ("abov", "below"),
    ("high", "low"), ("high", "lower"), ("start", "stop"), ("enabl", "disabl"), ("alway", "never"),
    ("fast", "slow"), ("first", "last"), ("open", "close"), ("least", "most"),
    ("grow", "shrink"), ("ris", "fall"), ("slow", "quick"), ("gain", "lose"), ("import", "export"), ("allow", "forbid"),
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


def judge(sentence: str, passages: Sequence[Passage], rules: Rules = STRICT) -> Verdict:
    """Whether a passage supports the sentence, and which. Without passages nothing is supported."""
    scored = [(*_support(sentence, passage.text, rules), passage) for passage in passages]
    good = sorted(((score, p) for score, reason, p in scored if not reason), key=lambda pair: -pair[0])
    if good:
        best = good[0][0]
        return Verdict(tuple(p.id for score, p in good[:2] if score >= ALSO * best), best)
    if not scored:
        return Verdict(reason="no passage was read")
    score, reason, _ = max(scored, key=lambda item: item[0])
    return Verdict((), score, reason)


def ground(
    text: str, passages: Sequence[Passage], rules: Rules = STRICT, *, echoes: Iterable[str] = ()
) -> Grounded:
    """Check a model's text sentence by sentence.

    Args:
        text: what the model wrote.
        passages: what it was given to read.
        echoes: the question and the prompt's own lines; a sentence that only repeats one is no claim.
    """
    kept: list[Sentence] = []
    dropped: list[DroppedSentence] = []
    prompts = [line for echo in echoes for line in [echo, *split_sentences(echo)]]
    before: Verdict | None = None
    for raw in split_sentences(text):
        sentence = without_marks(clean(raw))
        reason = _unfit(sentence, prompts) or _repeated(sentence, kept)
        verdict = Verdict(reason=reason) if reason else judge(sentence, passages, rules)
        if verdict.supported and _dangles(sentence, verdict, before):
            verdict = Verdict(reason="refers to a sentence that does not stand before it")
        if verdict.supported:
            kept.append(Sentence(sentence, verdict.citations, "model"))
        elif sentence:
            dropped.append(DroppedSentence(sentence, verdict.reason))
        before = verdict
    return Grounded(tuple(kept), tuple(dropped))


def _dangles(sentence: str, verdict: Verdict, before: Verdict | None) -> bool:
    """Whether a sentence leans by its first word on one that was dropped or that another passage supports."""
    return leans(sentence) and (before is None or not set(before.citations) & set(verdict.citations))


def _unfit(sentence: str, prompts: Sequence[str]) -> str:
    said = set(content_stems(sentence))
    if any(len(said - set(content_stems(line))) <= 0.05 * len(said) for line in prompts):
        return "repeats the question or the prompt"
    return "" if is_prose(sentence) and not sentence.endswith("?") else "is not a complete sentence of prose"


def _repeated(sentence: str, kept: Sequence[Sentence]) -> str:
    return "repeats an earlier sentence" if any(same(sentence, other.text) for other in kept) else ""


def _support(sentence: str, passage: str, rules: Rules) -> tuple[float, str]:
    """The score of the best window and why it does not hold; an empty reason is support."""
    results = [_compare(sentence, window, rules) for window in _windows(passage, rules.window)]
    return max(results, key=lambda result: (not result[1], result[0]))


def _windows(passage: str, widest: int) -> list[str]:
    sentences = [clean(sentence) for sentence in split_sentences(passage)]
    return [
        " ".join(sentences[start : start + size])
        for size in range(1, widest + 1)
        for start in range(max(1, len(sentences) - size + 1))
    ]


def _compare(sentence: str, window: str, rules: Rules) -> tuple[float, str]:
    claimed, there = content_stems(sentence), content_stems(window)
    if not claimed:
        return 0.0, "says nothing that can be checked"
    present = set(there)
    coverage = sum(word in present for word in claimed) / len(claimed)
    missing = numbers(sentence) - numbers(window)
    if missing:
        return coverage, f"the number {sorted(missing)[0]} is in no passage beside these words"
    names = sorted(name for name in identifiers(sentence) - identifiers(window) if name not in window.lower())
    if names:
        return coverage, f"the name {names[0]} is in no passage beside these words"
    # A near copy that swaps one name for another of the passage then has that one too often.
    swapped = [name for name in identifiers(sentence) if _count(name, sentence) > _count(name, window)]
    if swapped:
        return coverage, f"has the name {min(swapped)} more often than the passage"
    if coverage < rules.coverage:
        absent = next(word for word in claimed if word not in present)
        return coverage, f"only {coverage:.0%} of its words are together in a passage (not '{absent}')"
    pairs = _pairs(claimed, [content_stems(one) for one in split_sentences(window)])
    if pairs < rules.pairs:
        return coverage, f"joins words of a passage in another way ({pairs:.0%} of its pairs are there)"
    return (coverage + pairs) / 2, _contradiction(sentence, window)


def _count(name: str, text: str) -> int:
    return text.lower().count(name)


def _contradiction(sentence: str, window: str) -> str:
    if not _same_polarity(sentence, window):
        return "its negation differs from the passage"
    ours, theirs = _all_stems(sentence), _all_stems(window)
    for pair in _OPPOSITES:
        for here, there in (pair, pair[::-1]):
            if here in ours and here not in theirs and there in theirs and there not in ours:
                return f"says '{here}' where the passage says '{there}'"
    return ""


def _same_polarity(sentence: str, window: str) -> bool:
    """Whether each clause of the sentence is negated as is the clause of the window that is most like it."""
    there = [(set(content_stems(clause)), is_negated(clause)) for clause in _CLAUSE.split(window)]
    for clause in _CLAUSE.split(sentence):
        ours = set(content_stems(clause))
        near = max(there, key=lambda other: len(ours & other[0]) / (len(ours | other[0]) or 1))
        if ours and is_negated(clause) != near[1]:
            return False
    return True


def _pairs(claimed: Sequence[str], there: Sequence[Sequence[str]]) -> float:
    """The share of a claim's neighbouring words that stand in this order, near each other, in one sentence."""
    pairs = list(pairwise(claimed))
    if not pairs:
        return 1.0
    near = {(a, b) for one in there for i, a in enumerate(one) for b in one[i + 1 : i + 1 + NEAR]}
    return sum(pair in near for pair in pairs) / len(pairs)


def _all_stems(text: str) -> set[str]:
    return {stem(word) for word in words(text)}
