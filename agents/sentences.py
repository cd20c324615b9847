"""Text as sentences and words: splitting, cleaning of what models add, and the simple word forms that
retrieval and grounding compare. Pure functions, no language model, English only.
"""

import re
from collections.abc import Iterable, Iterator

_FENCE = re.compile(r"```.*?(?:```|\Z)|^\s*(?:>>>|\.\.\s).*$", re.S | re.M)
_BLOCK = re.compile(
    r"\n\s*\n|\n(?=\s*(?:[-*+•]|\d+[.)]|#{1,6}|\|)\s)|\n(?=\s*[`\w.]{2,40}(?: \([^)\n]*\))?: +[A-Z`])"
)
_MARKER = re.compile(r"^\s*(?:(?:[-*+•>]|#{1,6}|\(?\d{1,2}[.)]|\[\d+\])\s+)+")
_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\s]*\)")
_RST = re.compile(r"``([^`\n]+)``|:\w+:`~?([^`\n<]+?)(?: ?<[^>\n]*>)?`|`([^`\n<]+?) ?<[^>\n]+>`_{0,2}")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*|__([^_\n]+)__")
_MARKS = re.compile(r"\s*\[\d+(?:\s*[,-]\s*\d+)*\]")
_END = re.compile(r"[.!?]+[\"'”’)\]*_`]*(?=\s+(?:[\"'“‘(\[`*_$]*[A-Z0-9]|`))")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:['’][a-z]+)?")
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?|(?<=[$€£])\d[\d,]*(?:\.\d+)?|(?<![\w])\.\d+")
_DIGITS_IN_WORD = re.compile(r"(?<=[A-Za-z])\d+(?:\.\d+)?|\d+(?:\.\d+)?(?=[A-Za-z])")
_IDENTIFIER = re.compile(
    r"\b(?:[A-Za-z]\w*_\w+|[a-z]+(?:[A-Z][a-z0-9]+)+|(?:[A-Z][a-z0-9]+){2,}|[A-Za-z_]\w+(?:\.[A-Za-z_]\w+)+|[A-Z][A-Z0-9]{2,})\b"
)
_SMALL = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=2
    )
} | {
    "twenty": "20",
    "thirty": "30",
    "fifty": "50",
    "hundred": "100",
    "thousand": "1000",
    "million": "1000000",
}


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ABBREVIATIONS = _listed(
    "e.g. i.e. etc. vs. cf. fig. no. approx. incl. dr. mr. mrs. st. u.s. al. sec. eq. inc. ltd. jr."
)
STOP_WORDS = _listed(
    """a about above after again all also although am an and another any are as at be because been
    before being below between both but by can cannot could did do does doing down during each either else
    ever every few for from further get gets give given gives had has have having he her here hers him his
    how however i if in into is it its itself just kind let like made make makes many may me might more most
    much must my no nor not now of off often on once one only or other our out over own per rather same say
    see shall she should since so some such than that the their them then there these they this those thus
    to too under until up upon us use used uses using very via was way we well were what when where whether
    which while who whom whose why will with within without would yes yet you your"""
)
NEGATIONS = _listed(
    """no not never none neither nor cannot without can't don't doesn't isn't aren't won't didn't wasn't
    weren't shouldn't couldn't wouldn't hasn't haven't unable"""
)

_LEANING = _listed(
    "this these it they that those such he she its their both then also however therefore thus"
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in order, each on one line, without list markers; code blocks are left out."""
    return [sentence for block in _blocks(text) for sentence in _split_block(block)]


def _blocks(text: str) -> Iterator[str]:
    for block in _BLOCK.split(_FENCE.sub("\n\n", text)):
        line = " ".join(_MARKER.sub("", block).split())
        if line:
            yield line


def _split_block(block: str) -> Iterator[str]:
    start = 0
    for match in _END.finditer(block):
        last = block[start : match.end()].split()[-1].lower().lstrip("(")
        if last in _ABBREVIATIONS or re.fullmatch(r"[a-z]\.", last):
            continue
        yield block[start : match.end()].strip()
        start = match.end()
    if block[start:].strip():
        yield block[start:].strip()


def clean(text: str) -> str:
    """A sentence as plain prose: no links, bold, list markers or roles of reST; every word of it stays."""
    text = _RST.sub(lambda m: f"`{m[1] or m[2] or m[3]}`", _LINK.sub(r"\1", text))
    text = _BOLD.sub(lambda m: m[1] or m[2], text)
    return " ".join(_MARKER.sub("", text).split())


def without_marks(text: str) -> str:
    """A model's sentence without the citation marks it wrote: which passage supports it is found, not believed."""
    return _MARKS.sub("", text)


def is_prose(text: str) -> bool:
    """Whether a sentence can stand in a report by itself: complete, of sensible length, words rather than code."""
    words = _WORD.findall(text)
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return (
        30 <= len(text) <= 400
        and len(words) >= 6
        and text.rstrip("\"'”’)`*").endswith((".", "!", "?"))
        and (
            text[0].isupper()
            or text[0] in "`\"“'($"
            or bool(re.match(r"[\w.]+(?: \([^)]*\))?: [A-Z`]", text))
        )
        and letters >= 0.72 * len(text)
        and not re.search(r"[{};]|==|->|\w\(\w*=|\bself\b|\*\w+:|https?://\S+$|\|", text)
    )


def stem(word: str) -> str:
    """A crude stem: enough to match `scales`, `scaled` and `scaling`; two different words may share one."""
    word = re.sub(r"['’]s$|['’]$", "", word.lower())
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "xes", "ches", "shes")):
        word = word[:-2]
    elif word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for suffix, end, least in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= least:
            word = word[: -len(suffix)] + end
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] in "ey" else word


_SUFFIXES = (
    ("ision", "id", 2),
    ("ization", "iz", 3),
    ("isation", "iz", 3),
    ("ations", "", 4),
    ("ation", "", 4),
    ("ition", "", 4),
    ("ate", "", 4),
    ("ating", "", 4),
    ("ated", "", 4),
    ("ment", "", 4),
    ("ion", "", 4),
    ("ing", "", 3),
    ("ally", "", 4),
    ("ly", "", 4),
    ("ed", "", 3),
    ("ise", "iz", 3),
    ("est", "", 4),
    ("er", "", 4),
    ("or", "", 4),
)


def words(text: str) -> list[str]:
    """The words of a text in lower case; the parts of `snake_case`, `CamelCase` and dotted names are words too."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text.replace("_", " "))
    return [word.lower().replace("’", "'") for word in _WORD.findall(spaced)]


def content_stems(text: str) -> list[str]:
    """Stems of the words that carry meaning, in order, repeats kept."""
    return [
        stem(word)
        for word in words(text)
        if word not in STOP_WORDS and word not in NEGATIONS and len(word) > 1
    ]


def numbers(text: str) -> set[str]:
    """The numbers of a text in one form: `1,000` is 1000, `0.50` is 0.5, `three` is 3. Citation marks do not count."""
    text = _MARKS.sub("", text).replace("_", " ")
    found = {canonical(match) for match in _NUMBER.findall(text)}
    found |= {canonical(match) for match in _DIGITS_IN_WORD.findall(text)}
    return found | {_NUMBER_WORDS[word] for word in words(text) if word in _NUMBER_WORDS}


def canonical(number: str) -> str:
    """One spelling per value: no thousands commas, no trailing zeros."""
    number = number.replace(",", "")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    whole, dot, rest = number.partition(".")
    return (whole.lstrip("0") or "0") + dot + rest


def identifiers(text: str) -> set[str]:
    """Names as programs write them: CamelCase, snake_case, dotted.names, ACRONYMS."""
    return {match.strip(".").lower() for match in _IDENTIFIER.findall(text)}


def is_negated(text: str) -> bool:
    """Whether an odd number of negations stands in the text, so that two cancel out."""
    return sum(word in NEGATIONS or word.endswith("n't") for word in words(text)) % 2 == 1


def leans(text: str) -> bool:
    """Whether a sentence points back at one before it by its first word."""
    first = words(text)[:1]
    return bool(first) and first[0] in _LEANING


def same(first: str, second: str, threshold: float = 0.8) -> bool:
    """Whether two sentences say the same by their words (overlap against the shorter one)."""
    a, b = set(content_stems(first)), set(content_stems(second))
    return (
        bool(a and b) and len(a & b) >= threshold * min(len(a), len(b)) and numbers(first) == numbers(second)
    )


def is_new(sentence: str, others: Iterable[str]) -> bool:
    return not any(same(sentence, other) for other in others)
