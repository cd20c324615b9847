"""Several answers to one question: made alike, counted, and one chosen."""

import re
from collections.abc import Sequence
from typing import Any

from agents.sentences import canonical, numbers

MAX_SAMPLES = 50
_MARK = re.compile(r"answer(?:\s+is)?\s*[:=]\s*", re.I)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_ARTICLE = re.compile(r"^(?:(?:the|a|an|it is|it's)\s+)+")


def seeds(count: int) -> list[int]:
    """1 to `count`: each sample its own. At most 50."""
    return list(range(1, min(max(count, 1), MAX_SAMPLES) + 1))


def vote(answers: Sequence[str | None], choices: Sequence[str] | None = None) -> dict[str, Any]:
    """Count the answers, those that differ only in form as one.

    Args:
        answers: texts of models; what counts is what follows the last "Answer:", else the last line.
        choices: where given, only these count, and a text counts for the one it names.

    Returns:
        `{answer, votes, agreement, samples, unusable, tie}`: `votes` are `{answer, count, samples}`, most
        first; of as many votes the answer that came first wins, and `tie` says that there were others.
        `agreement` is the winner's share of the usable samples, 0 without any; `answer` is null then.
    """
    found = [_chosen(text or "", choices or ()) for text in answers]
    groups: dict[str, list[int]] = {}
    for number, text in enumerate(found):
        if text:
            groups.setdefault(normal(text), []).append(number)
    # Sorting is stable, and groups are in the order in which they first appeared.
    ranked = sorted(groups.values(), key=lambda samples: -len(samples))
    usable = sum(map(len, ranked))
    votes = [{"answer": found[s[0]], "count": len(s), "samples": s} for s in ranked]
    return {
        "answer": votes[0]["answer"] if votes else None,
        "votes": votes,
        "agreement": round(len(ranked[0]) / usable, 3) if ranked else 0.0,
        "samples": len(found),
        "unusable": len(found) - usable,
        "tie": len(ranked) > 1 and len(ranked[0]) == len(ranked[1]),
    }


def final(text: str) -> str:
    """The answer in a text that thinks first: behind the last "Answer:", else the last line that has words."""
    *before, last = _MARK.split(text)
    if before and last.strip():
        return last.strip().splitlines()[0].strip()
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    return lines[-1] if lines else ""


def normal(text: str) -> str:
    """One form for answers that say the same: no case, marks, articles; numbers in one spelling."""
    text = _NUMBER.sub(lambda match: canonical(match[0]), text.casefold())
    text = " ".join(re.sub(r"[^\w.%-]+", " ", text).split()).strip(" .-_")
    text = _ARTICLE.sub("", text)
    words = numbers(text) if text.isalpha() else set()
    return words.pop() if len(words) == 1 else text


def _chosen(text: str, choices: Sequence[str]) -> str:
    said = final(text)
    if not choices or not said:
        return said if re.search(r"\w", said) else ""
    for place in (said, text):
        named = [c for c in choices if re.search(rf"(?<!\w){re.escape(c)}(?!\w)", place, re.I)]
        # A choice within another, `no` in `no way`, is not named by the longer one.
        named = [c for c in named if not any(c.casefold() in d.casefold() and c != d for d in named)]
        if len(named) == 1:
            return named[0]
    return ""
