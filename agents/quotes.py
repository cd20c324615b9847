"""Choosing passages and quoting them: what retrieval found, narrowed to the sentences that speak of the question.

Words of the question count by how rare they are among the passages; words that the best passages share count a
little, so that an answer in the documents' own words is found too.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from agents.sentences import clean, content_stems, is_new, is_prose, leans, split_sentences, stem, words
from manta.messages import Passage, Sentence

RELEVANT = 0.4
"""Least share of the question's weight that a passage must carry before it is quoted: below it the passage has
the common words of the question and not those that make it special."""
_SHARED_BY, _SHARED_WORDS, _SHARED_WEIGHT = 4, 8, 0.25
_PER_PASSAGE = 3
_AROUND = 0.6
_LEANING = 0.5
"""Taken off a sentence that points back ("This class ..."): alone in a report it says little."""
_RANK_CONSTANT = 10
"""Reciprocal rank fusion of two short lists: small, so that the first ranks of either count."""


class Relevance:
    """Scores texts by a question, against the passages that were found for it."""

    def __init__(self, question: str, passages: Sequence[Passage]) -> None:
        sets = [set(content_stems(passage.text)) for passage in passages]
        spread = Counter(word for present in sets for word in present)
        total = max(1, len(sets))
        self._weights = {w: math.log(1 + total / (0.5 + spread[w])) for w in set(content_stems(question))}
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
    question: str, passages: Sequence[Passage], count: int, beside: Iterable[str] = ()
) -> list[Sentence]:
    """The sentences that answer best, verbatim but for white space and markup, each with its passage's id.

    Args:
        passages: best first.
        beside: sentences that are there already and need no repeating.
    """
    score = Relevance(question, passages)
    candidates: list[tuple[float, int, Sentence]] = []
    for rank, passage in enumerate(passages):
        whole = score.with_shared(passage.text)
        texts = [clean(raw) for raw in split_sentences(passage.text)]
        own = [score.with_shared(text) for text in texts]
        for place, text in enumerate(texts):
            if is_prose(text) and not text.endswith("?"):
                # What stands between two sentences on the question is on it too, in whatever words; a passage
                # found first and a sentence that opens it count for something: they state the topic.
                around = sum(own[max(0, place - 1) : place] + own[place + 1 : place + 2]) / 2
                value = own[place] + _AROUND * around + 0.3 * whole + 0.25 / (1 + rank) + 0.1 / (1 + place)
                value -= _LEANING if leans(text) else 0.0
                candidates.append((value, rank, Sentence(text, (passage.id,), "quoted")))
    chosen: list[Sentence] = []
    taken: Counter[int] = Counter()
    there = list(beside)
    for _, rank, sentence in sorted(candidates, key=lambda item: -item[0]):
        if len(chosen) < count and taken[rank] < _PER_PASSAGE and is_new(sentence.text, there):
            chosen.append(sentence)
            there.append(sentence.text)
            taken[rank] += 1
    return chosen


def excerpts(question: str, passages: Sequence[Passage], count: int) -> list[Passage]:
    """The passages cut down to the sentences that would be quoted; ids stay, offsets are not adjusted.

    For a model's eyes only: what is cited afterwards is the whole passage.
    """
    chosen = quote(question, passages, count)
    texts = {passage.id: [s.text for s in chosen if passage.id in s.citations] for passage in passages}
    return [replace(p, text=" ".join(texts[p.id])) for p in passages if texts[p.id]]
