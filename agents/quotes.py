"""Choosing passages and quoting them: what retrieval found, narrowed to the sentences that speak of the question.

Words of the question count by how rare they are among the passages; words that the best passages share count a
little, so that an answer in the documents' own words is found too.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from agents.sentences import clean, content_stems, is_new, is_prose, split_sentences
from manta.messages import Passage, Sentence

RELEVANT = 0.4
"""Least share of the question's weight that a passage must carry before it is quoted: below it the passage has
the common words of the question and not those that make it special."""
_FEEDBACK_FROM, _FEEDBACK_WORDS, _FEEDBACK_WEIGHT = 4, 8, 0.25
_PER_PASSAGE = 2


class Relevance:
    """Scores texts by a question, against the passages that were found for it."""

    def __init__(self, question: str, passages: Sequence[Passage]) -> None:
        sets = [set(content_stems(passage.text)) for passage in passages]
        spread = Counter(word for words in sets for word in words)
        total = max(1, len(sets))
        self._weights = {
            word: math.log(1 + total / (0.5 + spread[word])) for word in set(content_stems(question))
        }
        self._whole = sum(self._weights.values()) or 1.0
        shared = Counter(word for words in sets[:_FEEDBACK_FROM] for word in words if word not in self._weights)
        self._feedback = {
            word: _FEEDBACK_WEIGHT * count / _FEEDBACK_FROM
            for word, count in sorted(shared.items(), key=lambda item: (-item[1], item[0]))[:_FEEDBACK_WORDS]
            if count > 1
        }

    def of(self, text: str) -> float:
        """The share of the question's weight in a text, 0 to 1."""
        present = set(content_stems(text))
        return sum(weight for word, weight in self._weights.items() if word in present) / self._whole

    def with_feedback(self, text: str) -> float:
        """`of`, plus a little for the words that the best passages share."""
        present = set(content_stems(text))
        return self.of(text) + sum(weight for word, weight in self._feedback.items() if word in present)


def relevant(question: str, passages: Sequence[Passage]) -> list[Passage]:
    """The passages that speak of the question, in the order found, no more than half from one document if others do."""
    score = Relevance(question, passages)
    good = [passage for passage in passages if score.of(passage.text) >= RELEVANT]
    most = max(2, (len(good) + 1) // 2)
    counts: Counter[str] = Counter()
    first: list[Passage] = []
    rest: list[Passage] = []
    for passage in good:
        counts[passage.document] += 1
        (first if counts[passage.document] <= most else rest).append(passage)
    return first + rest


def quote(question: str, passages: Sequence[Passage], count: int, beside: Iterable[str] = ()) -> list[Sentence]:
    """The sentences of the passages that answer best, verbatim but for white space and markup, each cited.

    Args:
        beside: sentences that are there already and need no repeating.
    """
    score = Relevance(question, passages)
    candidates: list[tuple[float, int, Sentence]] = []
    for rank, passage in enumerate(passages):
        whole = score.with_feedback(passage.text)
        for place, raw in enumerate(split_sentences(passage.text)):
            text = clean(raw)
            if is_prose(text) and not text.endswith("?"):
                # A passage found first and a sentence that opens it count for something: it states the topic.
                value = score.with_feedback(text) + 0.3 * whole + 0.25 / (1 + rank) + 0.1 / (1 + place)
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
