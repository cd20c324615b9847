"""HTML as plain text that keeps what a reader sees: headings, paragraphs, lists, tables and code, in order.

Nothing of the page's own text is rewritten or guessed away; only navigation, scripts and the like are left
out.
"""

import re
from html.parser import HTMLParser


def _tags(names: str) -> frozenset[str]:
    return frozenset(names.split())


_SKIPPED = _tags("script style noscript template svg head nav footer aside button select iframe canvas")
_BLOCKS = _tags(
    "address article blockquote body caption center dd details div dl dt fieldset figcaption figure form "
    "h1 h2 h3 h4 h5 h6 header hr html legend li main ol p pre section summary table tbody tfoot thead tr ul"
)
_VOID = _tags("area base br col embed hr img input link meta source track wbr")
_IN_HEAD = _tags("base link meta noscript script style template title")
_HEADING = re.compile(r"h([1-6])$")


def html_to_text(page: str) -> str:
    """The visible text, blocks set apart by an empty line; empty when there is none."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[str] = []
        self._line: list[str] = []
        self._prefix = ""
        self._skipped: list[str] = []
        """Open elements from the first one that is left out inward; empty while text is taken."""
        self._pre = 0

    def text(self) -> str:
        self._end_block()
        return "\n\n".join(self._blocks)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped[:1] == ["head"] and tag not in _IN_HEAD:
            # A head needs no closing tag: the first element that cannot be in it ends it.
            self._skipped.clear()
        if self._skipped or tag in _SKIPPED:
            if tag not in _VOID:
                self._skipped.append(tag)
            return
        if tag == "br":
            self._line.append("\n")
        elif tag in ("td", "th"):
            self._line.append(" | " if "".join(self._line).strip() else "")
        elif tag in _BLOCKS:
            self._end_block()
            heading = _HEADING.match(tag)
            self._prefix = (
                "#" * int(heading.group(1)) + " " if heading else "- " if tag == "li" else self._prefix
            )
            self._pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            if tag in self._skipped:
                # Elements left open inside end with the one around them.
                del self._skipped[len(self._skipped) - 1 - self._skipped[::-1].index(tag) :]
            return
        if tag in _BLOCKS:
            self._end_block(fenced=tag == "pre")
            self._prefix = ""
            self._pre = max(0, self._pre - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._line.append(data if self._pre else re.sub(r"\s+", " ", data))

    def _end_block(self, *, fenced: bool = False) -> None:
        joined = "".join(self._line)
        self._line = []
        if self._pre:
            block = joined.strip("\r\n").rstrip()
            if fenced and block and "```" not in block:
                self._prefix, block = "", f"```\n{block}\n```"
        else:
            block = "\n".join(re.sub(r" {2,}", " ", line).strip() for line in joined.strip().split("\n"))
        if block.strip():
            self._blocks.append(self._prefix + block)
            self._prefix = ""
