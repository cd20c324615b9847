"""JSON that can be kept and sent on: what Python's own parser lets through but no journal or answer can hold
is refused where it comes in."""

import json
import math
import re
from typing import Any

from manta.errors import InvalidInput

MAX_DEPTH = 100
_MAY_BE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def loads(text: str) -> Any:
    """The value of `text`.

    Raises:
        InvalidInput: it is not JSON, is nested deeper than 100, or has a key twice, NaN, an infinity, a NUL, half
            a character (a lone surrogate) or a number of thousands of digits.
    """
    try:
        value = json.loads(text, parse_constant=_constant, parse_float=_finite, object_pairs_hook=_object)
        if _NUL.search(text):
            raise InvalidInput("a NUL in a string", fix="leave it out")
        if _MAY_BE_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error.msg} at character {error.pos}", fix="send JSON") from None
    except UnicodeEncodeError:
        raise InvalidInput("half a character (a lone surrogate) in a string", fix="send whole ones") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        # What is left is a whole number over Python's limit of digits.
        raise InvalidInput("a number has too many digits", fix="send it as a string") from None
    if _deeper_than(value, MAX_DEPTH):
        raise _too_deep()
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Which of two values counts differs from parser to parser: what one checks another may not see.
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidInput("a key is there twice in one object", fix="send it once")
    return value


def _constant(name: str) -> float:
    raise InvalidInput(f"{name} is not JSON", fix="send null or a number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise InvalidInput(f"the number {text[:20]} is too large", fix="send null or a smaller one")
    return value


def _too_deep() -> InvalidInput:
    return InvalidInput(f"nested deeper than {MAX_DEPTH}", fix="send a flatter value")


def _deeper_than(value: Any, limit: int) -> bool:
    # Level by level: a value that is too deep for recursion is just what this looks for.
    level = [value]
    for _ in range(limit + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return False
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return True
