"""What the pages show is what the code takes: settings, graphs, Python, commands, make targets."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta.config import load_settings
from manta.graph import parse_graph
from tests.docs.command_lines import command_lines, commands, refusal
from tests.docs.graph_examples import is_example
from tests.docs.pages import PAGES, ROOT, Block, blocks, code_marks, name_of, prose

YAML = blocks("yaml")
PYTHON = blocks("python") + [b for b in blocks("indented") if b.page == "docs/python.md"]
SHELL = blocks("bash", "") + blocks("indented")
COMMANDS = [(str(block), words) for block in SHELL for words in command_lines(block.text)]


def test_there_is_something_to_check():
    assert len(YAML) >= 8
    assert len(PYTHON) >= 8
    assert len(COMMANDS) > 15
    assert any(block.run for block in PYTHON)


@pytest.mark.parametrize("block", YAML, ids=str)
def test_a_yaml_block_is_a_graph_or_an_example_of_one_or_settings(block: Block, tmp_path: Path):
    data = yaml.safe_load(block.text)
    if is_example(data):
        assert block.page == "docs/graphs.md", "examples elsewhere are not run"
        return
    if "steps" in data:
        parse_graph(data, str(block))
        return
    file = tmp_path / "manta.yaml"
    file.write_text(block.text)
    settings = load_settings(file, {})
    assert settings.ships_code


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_block_compiles_and_imports_what_exists(block: Block):
    tree = compile(block.text, str(block), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = __import__(node.module, fromlist=[alias.name for alias in node.names])
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@pytest.mark.parametrize("block", [b for b in PYTHON if b.run], ids=str)
def test_a_block_marked_to_run_runs(block: Block, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", block.text],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("place", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_command_line_is_accepted(place: str, words: list[str]):
    assert refusal(words) == "", f"{place}: manta {' '.join(words)}"


@pytest.mark.parametrize(
    "words", [["fly"], ["run", "q", "--fast"], ["docs", "burn"], ["show"], ["up", "--port", "many"]]
)
def test_a_wrong_command_line_would_be_found(words: list[str]):
    assert refusal(words)


def test_commands_in_running_text_exist():
    known = commands()
    for page in PAGES:
        for mark in code_marks(page):
            # Within a table a bar is written with a backslash.
            words = mark.replace("\\|", "|").split()
            if (
                words[0].rsplit("/", 1)[-1] != "manta"
                or len(words) < 2
                or words[1].startswith(("-", "COMMAND"))
            ):
                continue
            assert words[1] in known, f"{name_of(page)}: {mark}"
            if words[1] == "docs":
                assert set(words[2].split("|")) <= set(known["docs"].commands), f"{name_of(page)}: {mark}"


def test_every_command_is_in_the_page_on_the_command_line():
    text = (ROOT / "docs/cli.md").read_text()
    marks: Any = re.findall(r"`([^`]+)`", text)
    for name in commands():
        assert any(re.search(rf"\b{name}\b", mark) for mark in marks), name


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = "\n".join([*(block.text for block in SHELL), *map(prose, PAGES)])
    named = set(re.findall(r"(?:^|`|[A-Z]=\d )make ([a-z-]+)", text, re.M))
    assert {"demo", "test", "check", "setup"} <= named
    assert named <= targets
