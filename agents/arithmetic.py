"""Arithmetic in a question, found by rules, so that code computes it and no model guesses."""

import ast
import re

_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_WORDS = (
    (re.compile(rf"({_NUMBER})\s*(?:%|percent)\s+of\s+({_NUMBER})", re.I), r"( \1 / 100 * \2 )"),
    (re.compile(r"\b(?:multiplied by|times)\b", re.I), " * "),
    (re.compile(r"\bdivided by\b", re.I), " / "),
    (re.compile(r"\bplus\b", re.I), " + "),
    (re.compile(r"\bminus\b", re.I), " - "),
)
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
# A bare `-` or `/` between digits is a date, a range or `24/7`: those count only between spaces.
_OPERATOR = r"(?:\s*(?:\*\*|\^|\*|\+)\s*|\s+[-/]\s+)"
_TERM = rf"(?:\(\s*)*-?{_NUMBER}(?:\s*\))*"
_EXPRESSION = re.compile(rf"(?<![\w.])({_TERM}(?:{_OPERATOR}{_TERM})+)(?![\w%])")
_CUE = re.compile(r"(?:what(?:'s| is)|how much is|calculate|compute|evaluate|work out)\s*\(?\s*$", re.I)
_ALLOWED = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.operator, ast.unaryop)
_LONGEST = 200


def expression(question: str) -> str | None:
    """The first arithmetic in a question, as Python; None where there is none."""
    text = question.translate(_SIGNS)
    for kind, python in _WORDS:
        text = kind.sub(python, text)
    for match in _EXPRESSION.finditer(text):
        found = _balanced(" ".join(match[1].replace(",", "").replace("^", "**").split()))
        # `3 - 4 euros` is a range unless somebody asks what it is.
        asked = _CUE.search(text, 0, match.start()) or not re.fullmatch(r"[\d.\s-]+", found or "")
        if found is not None and asked:
            return found
    return None


def program(expression: str) -> str:
    """A script that prints the value, without the noise of binary fractions."""
    return f"value = {expression}\nprint(value if isinstance(value, int) else f'{{value:.12g}}')\n"


def _balanced(found: str) -> str | None:
    """The expression if it is one; parentheses of the sentence around it are taken off."""
    for candidate in (found, found.lstrip("( "), found.rstrip(") ")):
        try:
            tree = ast.parse(candidate, mode="eval")
        except (SyntaxError, ValueError):  # Also `007`, which is no number to Python.
            continue
        arithmetic = all(isinstance(node, _ALLOWED) for node in ast.walk(tree))
        if arithmetic and len(candidate) <= _LONGEST and not isinstance(tree.body, ast.Constant):
            return ast.unparse(tree)
    return None
