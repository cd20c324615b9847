"""JMESPath expressions: read once, asked what they name, searched fast."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import jmespath
import jmespath.exceptions
import jmespath.visitor

STEPS = "steps"
EVERYTHING = "@"

_Node: TypeAlias = Any
# Reading values from an expression tree leaves no trace in the interpreter, so that one does for all.
_INTERPRETER = jmespath.visitor.TreeInterpreter()
_IN_SAME_SCOPE = frozenset(
    {
        "or_expression",
        "and_expression",
        "not_expression",
        "comparator",
        "function_expression",
        "multi_select_list",
        "multi_select_dict",
        "key_val_pair",
    }
)
_OF_FIRST_CHILD = frozenset(
    {"index_expression", "projection", "value_projection", "filter_projection", "flatten", "pipe"}
)


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression over a scope.

    `names` are the entries of the scope that it names; `steps` the ids that it names within `steps`.
    `fault`: why it is of no use although it is JMESPath.
    """

    text: str
    names: frozenset[str]
    steps: tuple[str, ...]
    fault: str | None
    _tree: _Node
    _path: tuple[str, ...] | None
    """For `a.b.c` its parts: most expressions are such, and need no interpreter."""

    def search(self, scope: Mapping[str, Any]) -> Any:
        """The value in a scope of plain JSON; whatever JMESPath raises when the values do not fit."""
        if self._path is None:
            return _INTERPRETER.visit(self._tree, scope)
        value: Any = scope
        for name in self._path:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value


@lru_cache(maxsize=8192)
def expression(text: str) -> Expression:
    """Raises jmespath.exceptions.JMESPathError."""
    tree: _Node = jmespath.compile(text).parsed
    named = list(_named(tree))
    steps = tuple(inner for name, inner in named if name == STEPS and inner is not None)
    return Expression(
        text, frozenset(name for name, _ in named), steps, _fault(tree, named), tree, _path(tree)
    )


def _named(node: _Node) -> Iterator[tuple[str, str | None]]:
    """What a node names in the scope: the entry, and the field of it that comes next, if one does.

    What is evaluated on something else (behind a dot, in a filter, after `&`) names nothing of the scope.
    """
    kind, children = node["type"], node["children"]
    if kind == "field":
        yield node["value"], None
    elif kind in ("current", "identity"):
        yield EVERYTHING, None
    elif kind == "subexpression":
        yield from _named_by_dots(children)
    elif kind in _OF_FIRST_CHILD:
        yield from _named(children[0])
    elif kind in _IN_SAME_SCOPE:
        for child in children:
            yield from _named(child)


def _named_by_dots(children: list[_Node]) -> Iterator[tuple[str, str | None]]:
    first, second, *_ = children
    if first["type"] == "field":
        yield first["value"], _head(second)
    else:
        yield from _named(first)


def _head(node: _Node) -> str | None:
    """The field that a node begins with, if it does."""
    if node["type"] == "field":
        return str(node["value"])
    return _head(node["children"][0]) if node["type"] in _OF_FIRST_CHILD else None


def _fault(tree: _Node, named: list[tuple[str, str | None]]) -> str | None:
    if _negates_too_little(tree):
        return "`!` binds closer than `.`: write `!(…)` around what it negates"
    if any(name == EVERYTHING for name, _ in named):
        return "it names everything at once; name what it needs"
    if any(name == STEPS and inner is None for name, inner in named):
        return "`steps` needs a dot and a step's id behind it"
    return None


def _negates_too_little(node: _Node) -> bool:
    """`!a.b` is `(!a).b` to JMESPath, which is null whatever `a.b` is."""
    children = [child for child in node["children"] if isinstance(child, dict)]
    if node["type"] == "subexpression" and children[0]["type"] == "not_expression":
        return True
    return any(_negates_too_little(child) for child in children)


def _path(tree: _Node) -> tuple[str, ...] | None:
    parts = tree["children"] if tree["type"] == "subexpression" else [tree]
    if all(part["type"] == "field" for part in parts):
        return tuple(str(part["value"]) for part in parts)
    return None
