"""Links lead somewhere, and files and names that the pages speak of are there."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, code_marks, links, name_of

ROOMS = "manta|tools|agents|coordinator|serve_app|examples|deploy|docs|tests|benchmarks|scripts"
_PATH = re.compile(rf"(?:{ROOMS})/[\w./*-]*")
_NAMED = re.compile(rf"(?P<file>(?:{ROOMS})/[\w./-]+\.py):(?P<name>[A-Za-z_][\w.]*)")
_IMPORT = re.compile(
    r"(?P<module>(?:manta|tools|agents|coordinator|serve_app)(?:\.[a-z_]+)+)\.(?P<name>[A-Za-z]\w*)"
)
# What a user makes, in an example.
EXAMPLES = {"graphs/digest.yaml", "graphs/weekly.yaml"}
PAGE = pytest.mark.parametrize("page", PAGES, ids=name_of)


@PAGE
def test_links_lead_somewhere(page: Path):
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@PAGE
def test_paths_exist(page: Path):
    for mark in code_marks(page):
        if _PATH.fullmatch(mark) and not is_a_graphs_model(mark):
            assert any(map(there, ROOT.glob(mark.rstrip("/")))), mark


def is_a_graphs_model(mark: str) -> bool:
    """`manta/chain` is no path but the name of a ready graph as a model."""
    folder, _, name = mark.partition("/")
    return folder == "manta" and (ROOT / "coordinator/graphs" / f"{name}.yaml").is_file()


def there(path: Path) -> bool:
    """An empty folder would be gone in a fresh clone."""
    return path.is_file() or any(inner.is_file() for inner in path.rglob("*"))


@PAGE
def test_names_in_files_exist(page: Path):
    for mark in code_marks(page):
        match = _NAMED.match(mark)
        if match:
            assert match["name"] in defined(ROOT / match["file"]), mark


@PAGE
def test_imported_names_exist(page: Path):
    for mark in code_marks(page):
        match = _IMPORT.match(mark)
        file = ROOT / (match["module"].replace(".", "/") + ".py") if match else None
        if match and file and file.is_file():
            assert match["name"] in defined(file), mark


def defined(file: Path) -> set[str]:
    """Functions, classes, methods (as `Class.method`) and top-level names of a module."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if hasattr(inner, "name")}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def test_the_architecture_names_enough_to_be_checked():
    marks = code_marks(ROOT / "ARCHITECTURE.md")
    assert sum(bool(_NAMED.match(mark)) for mark in marks) >= 15


def test_every_decision_is_in_the_list():
    folder = ROOT / "docs/adr"
    assert {link for link in links(folder / "README.md")} == {p.name for p in folder.glob("0*.md")}


def test_ray_rooms_are_told_as_they_are():
    from tests.unit.test_architecture import RAY_ROOMS

    marks = set(code_marks(ROOT / "ARCHITECTURE.md"))
    assert marks >= RAY_ROOMS
