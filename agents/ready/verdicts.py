"""One word read out of what a model says, by rules that end somewhere whatever it says."""

import re
from collections.abc import Sequence

from agents.sentences import NEGATIONS, words

_FEW = 8
"""Words of an answer that may stand around a label; in more a model talks rather than chooses."""
_GOOD = re.compile(r"^[\W_]*good[\W_]*(?:[.!]|\n|$)", re.I)


def label(text: str | None, labels: Sequence[str], default: str) -> str:
    """The one of `labels` that an answer chooses, or `default`.

    An answer chooses a label that is its first word, or the only one in a short first line without a "not".
    """
    known = {name.casefold(): name for name in labels}
    said = words((text or "").strip().partition("\n")[0])
    if said and said[0] in known:
        return known[said[0]]
    named = {word for word in said if word in known}
    if len(named) == 1 and len(said) <= _FEW and not NEGATIONS & set(said):
        return known[named.pop()]
    return default


def criticism(text: str | None) -> str:
    """What a critic finds wrong; empty when the answer is the word GOOD, or nothing at all.

    "Good, but ..." is criticism.
    """
    said = (text or "").strip()
    return "" if _GOOD.match(said) else said
