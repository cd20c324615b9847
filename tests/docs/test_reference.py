"""Tables of keys and fields say what the code has: nothing is missing, nothing is made up, defaults are right."""

import dataclasses
import json
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from agents.grounding import PLAIN, STRICT
from agents.report import SCHEMA_FILE
from manta.config import Section, Settings
from manta.graph import KINDS, Approval, Fallback, Graph, Prompt, Repeat, Retry, Route, Step
from manta.messages import Budget
from tests.docs.pages import ROOT, bare, tables

CONFIGURATION = ROOT / "docs/configuration.md"


def settings_keys() -> dict[str, Any]:
    """Every key with its default, as `models.NAME.backend`; a kind of section is opened where it comes first."""
    return dict(_keys(Settings, "", set()))


def _keys(kind: type[Section], prefix: str, opened: set[type]) -> Iterator[tuple[str, Any]]:
    for name, field in kind.model_fields.items():
        inner: Any = field.annotation
        named = typing.get_origin(inner) is dict and _is_section(typing.get_args(inner)[1])
        section: Any = typing.get_args(inner)[1] if named else inner
        key = f"{prefix}{name}"
        if not _is_section(section):
            yield key, field.get_default(call_default_factory=True)
        elif section in opened:
            # Described before; what is worth saying is where its defaults differ.
            yield key, _differing(field.default, section())
        else:
            opened.add(section)
            yield from _keys(section, f"{key}.NAME." if named else f"{key}.", opened)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _differing(value: BaseModel, usual: BaseModel) -> dict[str, Any]:
    return {k: v for k, v in value.model_dump().items() if v != usual.model_dump()[k]}


def documented_keys() -> dict[str, str]:
    rows = [row for table in tables(CONFIGURATION, "Key") for row in table]
    keys = [bare(row[0]) for row in rows]
    assert len(keys) == len(set(keys)), "a key is there twice"
    return {bare(row[0]): bare(row[1]) for row in rows}


def test_every_key_is_documented_and_no_other():
    assert documented_keys().keys() == settings_keys().keys()


@pytest.mark.parametrize("key", sorted(settings_keys()))
def test_a_default_is_the_default(key: str):
    default = settings_keys()[key]
    plain = json.loads(json.dumps(default, default=str))
    told = documented_keys()[key]
    assert (told if isinstance(plain, str) and told != '""' else yaml.safe_load(told)) == plain


def test_the_variables_are_those_that_are_read():
    source = (ROOT / "manta/config.py").read_text()
    assert set(re.findall(r"MANTA_\w+", CONFIGURATION.read_text())) == set(re.findall(r"MANTA_\w+", source))


def test_the_built_in_agents_are_named():
    text = CONFIGURATION.read_text()
    for name, pool in Settings().agents.items():
        assert f"`{name}`" in text
        assert pool.size == 1 or f"`{name}` (`size: {pool.size}`)" in text


@pytest.mark.parametrize(
    ("number", "kind", "first"),
    [
        (0, Graph, "Field"),
        (1, Step, "Field"),
        (0, Prompt, "Field of `prompt`"),
        (0, Route, "Field of `route`"),
        (0, Repeat, "Field of `repeat`"),
        (0, Fallback, "Field of `on_error`"),
        (0, Retry, "Field of `retry`"),
        (0, Approval, "Field of `approval`"),
        (0, Budget, "Field of `budget`"),
    ],
)
def test_fields_of_graphs(number: int, kind: type, first: str):
    rows = tables(ROOT / "docs/graphs.md", first)[number]
    defaults = _defaults(kind)
    told = [bare(row[0]) for row in rows]
    assert sorted(told) == sorted(defaults)
    assert len(told) == len(set(told))
    for name, (_, cell, *_) in zip(told, rows, strict=True):
        if cell.startswith("`"):
            assert yaml.safe_load(bare(cell)) == json.loads(json.dumps(defaults[name]))
        else:
            assert (cell == "required") == (defaults[name] is _REQUIRED), name


_REQUIRED = object()


def _defaults(kind: Any) -> dict[str, Any]:
    """The fields of a part of a graph, with what they are when nothing is said."""
    if dataclasses.is_dataclass(kind):
        return {field.name: field.default for field in dataclasses.fields(kind)}
    fields = kind.model_fields.items()
    return {name: _REQUIRED if field.is_required() else field.default for name, field in fields}


def test_every_kind_of_step_is_in_the_sentence_on_them():
    text = (ROOT / "docs/graphs.md").read_text()
    sentence = text[text.index("Exactly one of") : text.index("says what does the work")]
    assert re.findall(r"`(\w+)`", sentence) == list(KINDS)


def test_what_references_may_name():
    rows = tables(ROOT / "docs/graphs.md", "Name")[0]
    named = {name.split(".")[0] for row in rows for name in re.findall(r"`([a-z]+)", row[0])}
    assert named == {"input", "steps", "thread", "item", "index", "previous", "iteration", "output", "error"}


def test_fields_of_the_report():
    schema = json.loads(SCHEMA_FILE.read_text())
    page = ROOT / "docs/report.md"
    told = {bare(row[0]): row[1] for row in tables(page, "Field")[0]}
    assert told.keys() == schema["properties"].keys()
    for field, part in (("citations", "citation"), ("analysis", "analysis"), ("answer", "sentence")):
        for name in schema["$defs"][part]["required"]:
            assert f"`{name}`" in told[field]
    origins = [bare(row[0]) for row in tables(page, "`origin`")[0]]
    assert origins == schema["$defs"]["sentence"]["properties"]["origin"]["enum"]


def test_the_rules_of_grounding():
    rows = {bare(row[0]): row[2:] for row in tables(ROOT / "docs/report.md", "Rules")[0]}
    for name, rules in (("STRICT", STRICT), ("PLAIN", PLAIN)):
        assert [float(cell) for cell in rows[name]] == [rules.window, rules.coverage, rules.pairs]
