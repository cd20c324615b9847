"""Where a text is cut into passages: pure, exact to the character, never inside a sentence or a code block
where that can be avoided. Every character that is not white space belongs to exactly one passage.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LOW, HIGH = 80, 160
"""A passage holds about this many words; a heading may end one earlier, a code block may stretch it."""
HEADING_LOW = 24
CODE_HIGH = 320
CHARACTERS_PER_WORD = 8
"""Text without spaces (Chinese, base64, tables of addresses) counts by its length instead."""


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets in characters; `text[start:end]` neither begins nor ends with white space."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Block:
    """A run of lines that belong together. A heading belongs to what follows it."""

    start: int
    end: int
    kind: str
    """`text`, `heading` or `code`."""


def split(text: str) -> tuple[Span, ...]:
    """Spans of the passages in order; none for a text of white space."""
    return tuple(_pack(text, _fitting(text, _blocks(text))))


def weight(text: str) -> int:
    """Words, or what its length would make of it when it has few spaces."""
    return max(len(text.split()), len(text) // CHARACTERS_PER_WORD)


def _pack(text: str, blocks: Iterable[Block]) -> Iterator[Span]:
    start = end = -1
    kind = ""
    for block in blocks:
        if start >= 0 and _ends_before(text, start, end, kind, block):
            yield Span(start, end)
            start = -1
        start = block.start if start < 0 else start
        end, kind = block.end, block.kind
    if start >= 0:
        yield Span(start, end)


def _ends_before(text: str, start: int, end: int, kind: str, block: Block) -> bool:
    held, together = weight(text[start:end]), weight(text[start : block.end])
    if block.kind == "heading" and held >= HEADING_LOW:
        return True
    # A heading stays with its first block, and code with the words before it that explain it.
    ceiling = CODE_HIGH if kind == "heading" or block.kind == "code" else HIGH
    if together > ceiling:
        return True
    return kind != "heading" and block.kind != "code" and held >= LOW


def _fitting(text: str, blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks, those that are too long for a passage cut into even pieces."""
    for block in blocks:
        limit = CODE_HIGH if block.kind == "code" else HIGH
        size = weight(text[block.start : block.end])
        if size <= limit:
            yield block
            continue
        cuts = _lines if block.kind == "code" else _sentences
        units = list(
            itertools.chain.from_iterable(_hard(text, u, limit) for u in cuts(text, block.start, block.end))
        )
        for span in _even(text, units, size / -(-size // limit), limit):
            yield Block(span.start, span.end, block.kind)


def _even(text: str, units: list[Span], aim: float, limit: int) -> Iterator[Span]:
    """Neighbouring units joined to about `aim` words each, never above `limit`."""
    first = units[0]
    start, end = first.start, first.end
    for unit in units[1:]:
        if weight(text[start:end]) >= aim or weight(text[start : unit.end]) > limit:
            yield Span(start, end)
            start = unit.start
        end = unit.end
    yield Span(start, end)


def _hard(text: str, unit: Span, limit: int) -> Iterator[Span]:
    """What is longer than a passage is cut between its lines, then between words, then anywhere."""
    if weight(text[unit.start : unit.end]) <= limit:
        yield unit
        return
    lines = list(_lines(text, unit.start, unit.end))
    if len(lines) > 1:
        for line in lines:
            yield from _hard(text, line, limit)
        return
    longest = limit * CHARACTERS_PER_WORD
    start, end, words = unit.start, unit.start, 0
    for word in _WORD.finditer(text, unit.start, unit.end):
        for at in range(word.start(), word.end(), longest):
            next_end = min(at + longest, word.end())
            if words == limit or (words and next_end - start > longest):
                yield Span(start, end)
                start, words = at, 0
            end, words = next_end, words + 1
    yield Span(start, end)


_WORD = re.compile(r"\S+")
_ITEM = re.compile(r"\s*\d{1,3}\.")
_STOP = re.compile(
    r"""[.!?]["'”’)\]*_]*(?=\s)|[。！？]["”’」』）]*|\n[ \t]*(?=(?:[-*+•]|\d{1,3}[.)])[ \t])"""
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|vs|etc|al|Mr|Mrs|Ms|Dr|Prof|St|Fig|Eq|No|Nr|Vol|pp?|approx|Inc|Ltd|Jr|Sr)|\b[A-Z])\.$"
)


def _sentences(text: str, start: int, end: int) -> Iterator[Span]:
    """Sentences and list items; better one cut too few than one inside a sentence."""
    begin = start
    for stop in _STOP.finditer(text, start, end):
        if stop.group()[0] == "." and _goes_on(text, begin, stop, end):
            continue
        yield from _trimmed(text, begin, stop.end())
        begin = stop.end()
    yield from _trimmed(text, begin, end)


def _goes_on(text: str, begin: int, stop: re.Match[str], end: int) -> bool:
    """Whether the full stop belongs to an abbreviation or to the number of a list item."""
    follows = _WORD.search(text, stop.end(), end)
    if follows and follows.group()[0].islower():
        return True
    before = text[max(begin, stop.start() - 12) : stop.start() + 1]
    return bool(_ABBREVIATION.search(before) or _ITEM.fullmatch(before))


def _lines(text: str, start: int, end: int) -> Iterator[Span]:
    at = start
    for line in text[start:end].splitlines(keepends=True):
        yield from _trimmed(text, at, at + len(line))
        at += len(line)


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    piece = text[start:end]
    bare = piece.strip()
    if bare:
        begin = start + len(piece) - len(piece.lstrip())
        yield Span(begin, begin + len(bare))


_FENCE = re.compile(r"\s*(```+|~~~+)")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+\S")
_UNDERLINE = re.compile(r"\s*([=\-~^\"'`#*+])\1{2,}\s*$")
_DIRECTIVE = re.compile(
    r"\s*\.\.\s+(?:code-block|code|sourcecode|testcode|literalinclude)::|.*[^:\s]::\s*$|\s*>>>"
)


def _blocks(text: str) -> Iterator[Block]:
    """Paragraphs, headings and code blocks, in order."""
    lines = list(_numbered(text))
    at = 0
    while at < len(lines):
        if not lines[at].text.strip():
            at += 1
            continue
        kind, size = _measure(lines, at)
        for span in _trimmed(text, lines[at].start, lines[at + size - 1].end):
            yield Block(span.start, span.end, kind)
        at += size


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def indent(self) -> int:
        return len(self.text) - len(self.text.lstrip())


def _numbered(text: str) -> Iterator[_Line]:
    at = 0
    for line in text.splitlines(keepends=True):
        yield _Line(at, line)
        at += len(line)


def _measure(lines: list[_Line], at: int) -> tuple[str, int]:
    """The kind of the block that starts at a line, and its number of lines."""
    line = lines[at].text
    fence = _FENCE.match(line)
    if fence:
        return "code", _fenced(lines, at, fence.group(1))
    if _HEADING.match(line):
        return "heading", 1
    if at + 1 < len(lines) and _UNDERLINE.match(lines[at + 1].text) and not _UNDERLINE.match(line):
        return "heading", 2
    if _DIRECTIVE.match(line):
        return "code", _indented(lines, at)
    size = 1
    while at + size < len(lines) and not _begins_another(lines, at + size):
        size += 1
    return "text", size


def _begins_another(lines: list[_Line], at: int) -> bool:
    line = lines[at].text
    if not line.strip() or _FENCE.match(line) or _HEADING.match(line) or _DIRECTIVE.match(line):
        return True
    return at + 1 < len(lines) and bool(_UNDERLINE.match(lines[at + 1].text)) and not _UNDERLINE.match(line)


def _fenced(lines: list[_Line], at: int, mark: str) -> int:
    closing = re.compile(rf"\s*{re.escape(mark)}{re.escape(mark[0])}*\s*$")
    for later in range(at + 1, len(lines)):
        if closing.match(lines[later].text):
            return later - at + 1
    # Never closed: then the mark is just a line, and what follows is read as usual.
    return 1


def _indented(lines: list[_Line], at: int) -> int:
    """A directive, or an interactive example, with the lines under it: deeper ones, or until a blank line."""
    example = lines[at].text.lstrip().startswith(">>>")
    size = 1
    for later in range(at + 1, len(lines)):
        line = lines[later]
        if not line.text.strip():
            if example:
                break
            continue
        if not example and line.indent <= lines[at].indent:
            break
        size = later - at + 1
    return size
