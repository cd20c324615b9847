"""Reads the project's pages: fenced blocks, tables, links and what stands in code marks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples/own_agent/README.md",
)
RUN_MARK = "<!-- run -->"

_FENCE = re.compile(r"^(?P<mark><!-- [a-z]+ -->\n)?```(?P<kind>[a-z]*)\n(?P<text>.*?)^```$", re.M | re.S)
_INDENTED = re.compile(r"(?:^ {4}[^\n]*\n(?:[ \t]*\n)*)+", re.M)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    kind: str
    text: str
    run: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(*kinds: str) -> list[Block]:
    """Fenced blocks of these kinds on all pages; the kind of an indented block is `indented`."""
    return [block for page in PAGES for block in _blocks(page) if block.kind in kinds]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        run = (match["mark"] or "").strip() == RUN_MARK
        yield Block(name_of(page), line, match["kind"], match["text"], run)
    for match in _INDENTED.finditer(_without_fences(text)):
        body = "\n".join(line[4:] for line in match[0].splitlines())
        yield Block(name_of(page), text.count("\n", 0, match.start()) + 1, "indented", body, False)


def _without_fences(text: str) -> str:
    # As many lines as before, so that places stay right.
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def prose(page: Path) -> str:
    return _without_fences(page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    return _LINK.findall(prose(page))


def code_marks(page: Path) -> list[str]:
    return _CODE.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The names that a code host gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tables(page: Path, first: str) -> list[list[list[str]]]:
    """Tables whose first heading is `first`: rows of cells, without the heading."""
    found: list[list[list[str]]] = []
    rows: list[list[str]] = []
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip("|\n"))]
            rows.append(cells)
            continue
        if rows and rows[0][0] == first:
            found.append(rows[2:])
        rows = []
    return found


def bare(cell: str) -> str:
    """A table cell without its code marks."""
    return cell.strip("`")
