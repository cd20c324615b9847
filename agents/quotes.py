"""Choosing passages and quoting them: what retrieval found, narrowed to the sentences that speak of the question.

Words of the question count by how rare they are among the passages; words that the best passages share count a
little, so that an answer in the documents' own words is found too.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from agents.sentences import (
    clean,
    content_stems,
    is_negated,
    is_new,
    is_prose,
    leans,
    split_sentences,
    stem,
    words,
)
from manta.messages import Passage, Sentence

RELEVANT = 0.4
"""Least share of the question's weight that a passage must carry before it is quoted: below it the passage has
the common words of the question and not those that make it special."""
_SHARED_BY, _SHARED_WORDS, _SHARED_WEIGHT = 4, 8, 0.25
_PER_PASSAGE = 3
_AROUND, _PASSAGE, _FOUND_FIRST, _OPENS, _PAIRS, _CUE = 0.4, 0.2, 0.25, 0.1, 0.4, 0.15
"""What counts beside a sentence's own words, relative to all of the question's: its neighbours', its passage's, the
passage's rank, its place there, pairs of words as in the question, and a word that explains."""
_LEANING, _POINTING, _BARE, _NOTE, _DENIAL = 0.5, 0.2, 0.35, 0.5, 0.2
"""Taken off a sentence that says little alone: one that points back ("This class ...") or has no subject
("Must be ..."), less so "... this value"; an entry or a list of names, a remark on the document itself, and a denial
where nobody asked for one."""
_FAR_BELOW = 0.72
"""Least share of the best quotation's value: fewer sentences are better than some beside the point."""
_CUES = tuple(
    (re.compile(kind, re.I), re.compile(rf"\b(?:{told})\b", re.I))
    for kind, told in (
        ("why|what (?:makes|causes|leads)", "because|since|so|due|therefore|caused?|causes|when|if|from"),
        ("how (?:much|many|long|fast|often|far|large|big|old)|when", r"\d+|before|after|when|until|once|if"),
        ("how", "by|when|if|based|so|which|to|between|with"),
        ("what (?:is|are)|who", "is|are|means|lets|allows"),
    )
)
"""What a question of a kind is answered with."""
_ENTRY = re.compile(r"[`*]*[\w.\[\]]+[`*]*(?: \([^)]*\))?: ")
_NAMES, _NEAR = 3, 3
"""Code spans a sentence may have before it is a list of them; words from one of a pair to the other."""
_CODE = re.compile(r"`[^`]*`")
_POINTS = re.compile(r"\b(?:this|these|above|below|following)\b", re.I)
_SUBJECTLESS = re.compile(
    r"(?:must|can|cannot|may|should|defaults?|returns?|is|are|has|if (?:not )?(?:set|given|none))\b", re.I
)
_REMARK = re.compile(r"(?:see|note|refer|read|click|for (?:more|details)|todo|warning|example)\b", re.I)
_RANK_CONSTANT = 10
"""Reciprocal rank fusion of two short lists: small, so that the first ranks of either count."""


class Relevance:
    """Scores texts by a question, against the passages that were found for it."""

    def __init__(self, question: str, passages: Sequence[Passage]) -> None:
        sets = [set(content_stems(passage.text)) for passage in passages]
        spread = Counter(word for present in sets for word in present)
        total = max(1, len(sets))
        self._weights = {w: math.log(1 + total / (0.5 + spread[w])) for w in set(content_stems(question))}
        self._pairs = [frozenset(pair) for pair in pairwise(content_stems(question))]
        self._whole = sum(self._weights.values()) or 1.0
        best = sorted(sets, key=lambda present: -self._share(present))[:_SHARED_BY]
        counts = Counter(word for present in best for word in present if word not in self._weights)
        common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SHARED_WORDS]
        self.shared = {word: count for word, count in common if count > 1}
        """Stems that several of the best passages have and the question has not, with how many have them."""

    def of(self, text: str) -> float:
        """The share of the question's weight in a text, 0 to 1."""
        return self._share(set(content_stems(text)))

    def with_shared(self, text: str) -> float:
        """`of`, plus a little for the words that the best passages share."""
        present = set(content_stems(text))
        shared = sum(count for word, count in self.shared.items() if word in present)
        return self._share(present) + _SHARED_WEIGHT * shared / _SHARED_BY

    def pairs(self, text: str) -> float:
        """The share of the question's neighbouring words that stand near each other in a text, in either order."""
        there = content_stems(text)
        near = {frozenset((a, b)) for i, a in enumerate(there) for b in there[i + 1 : i + 1 + _NEAR]}
        return sum(pair in near for pair in self._pairs) / len(self._pairs) if self._pairs else 0.0

    def _share(self, present: set[str]) -> float:
        return sum(weight for word, weight in self._weights.items() if word in present) / self._whole


def expanded(question: str, passages: Sequence[Passage]) -> str:
    """The question with words that the best passages share, for a search in the documents' own words."""
    shared = Relevance(question, passages).shared
    spelled: dict[str, str] = {}
    for passage in passages:
        for word in words(passage.text):
            if stem(word) in shared:
                spelled.setdefault(stem(word), word)
    return " ".join([question, *spelled.values()])


def merged(first: Sequence[Passage], second: Sequence[Passage]) -> list[Passage]:
    """Two results as one, by their reciprocal ranks."""
    score: defaultdict[str, float] = defaultdict(float)
    for found in (first, second):
        for rank, passage in enumerate(found):
            score[passage.id] += 1 / (_RANK_CONSTANT + rank)
    passages = {passage.id: passage for passage in (*second, *first)}
    return sorted(passages.values(), key=lambda passage: (-score[passage.id], passage.id))


def relevant(question: str, passages: Sequence[Passage]) -> list[Passage]:
    """The passages that speak of the question, best first; no more than half in front from one document."""
    score = Relevance(question, passages)
    found = [(score.of(passage.text), rank, passage) for rank, passage in enumerate(passages)]
    best_first = sorted(found, key=lambda item: -item[0] - 1 / (2 + item[1]))
    good = [passage for share, _, passage in best_first if share >= RELEVANT]
    most = max(2, (len(good) + 1) // 2)
    counts: Counter[str] = Counter()
    front: list[Passage] = []
    behind: list[Passage] = []
    for passage in good:
        counts[passage.document] += 1
        (front if counts[passage.document] <= most else behind).append(passage)
    return front + behind


def quote(
    question: str,
    passages: Sequence[Passage],
    count: int,
    beside: Iterable[str] = (),
    only: Collection[str] | None = None,
) -> list[Sentence]:
    """The sentences that answer best, verbatim but for white space and markup, each with its passage's id.

    Args:
        passages: best first.
        beside: sentences that are there already and need no repeating.
        only: ids of the passages to quote; the others still tell what matters.
    """
    found_all = [
        found
        for found in _candidates(question, passages)
        if only is None or set(found.sentence.citations) & set(only)
    ]
    best_first = sorted(found_all, key=lambda found: -found.value)
    # A denial or an entry of a list may be all there is: the bar is set by what was found, not by what is wished.
    bar = _FAR_BELOW * best_first[0].value if best_first else 0.0
    chosen: list[Sentence] = []
    taken: Counter[int] = Counter()
    there = list(beside)
    for found in best_first:
        fits = found.value >= bar and taken[found.rank] < _PER_PASSAGE and len(chosen) < count
        if fits and is_new(found.sentence.text, there):
            chosen.append(found.sentence)
            there.append(found.sentence.text)
            taken[found.rank] += 1
    return chosen


@dataclass(frozen=True, slots=True)
class _Candidate:
    value: float
    rank: int
    sentence: Sentence


def _candidates(question: str, passages: Sequence[Passage]) -> Iterator[_Candidate]:
    """The sentences that could be quoted; each has at least one of the question's words itself."""
    score = Relevance(question, passages)
    for rank, passage in enumerate(passages):
        texts = [clean(raw) for raw in split_sentences(passage.text)]
        own = [score.with_shared(text) for text in texts]
        # A passage found first and a sentence that opens it count for something: they state the topic.
        whole = _PASSAGE * score.with_shared(passage.text) + _FOUND_FIRST / (1 + rank)
        for place, text in enumerate(texts):
            if not is_prose(text) or text.endswith("?") or not score.of(text):
                continue
            # What stands between two sentences on the question is on it too, in whatever words.
            around = sum(own[max(0, place - 1) : place] + own[place + 1 : place + 2]) / 2
            value = own[place] + _AROUND * around + whole + _OPENS / (1 + place)
            value += _PAIRS * score.pairs(text) + _manner(question, text)
            yield _Candidate(value, rank, Sentence(text, (passage.id,), "quoted"))


def _manner(question: str, text: str) -> float:
    """What speaks for and against quoting a sentence alone, whatever it is about."""
    asked = next((cue for kind, cue in _CUES if kind.match(question)), None)
    value = _CUE if asked is not None and asked.search(text) else 0.0
    if leans(text) or _SUBJECTLESS.match(text):
        value -= _LEANING
    elif _POINTS.search(text):
        value -= _POINTING
    if _ENTRY.match(text) or len(_CODE.findall(text)) > _NAMES:
        value -= _BARE
    if _REMARK.match(text):
        value -= _NOTE
    if is_negated(text) and not is_negated(question):
        value -= _DENIAL
    return value


def excerpts(question: str, passages: Sequence[Passage], count: int) -> list[Passage]:
    """The passages cut down to the sentences that would be quoted; ids stay, offsets are not adjusted.

    For a model's eyes only: what is cited afterwards is the whole passage.
    """
    chosen = quote(question, passages, count)
    texts = {passage.id: [s.text for s in chosen if passage.id in s.citations] for passage in passages}
    return [replace(p, text=" ".join(texts[p.id])) for p in passages if texts[p.id]]
