"""Texts with places for variables, as a caller writes them."""

import json
import re
from collections.abc import Mapping
from typing import Any

from manta.errors import InvalidInput

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")


def fill(
    template: str | None = None, variables: Mapping[str, Any] | None = None, question: str | None = None
) -> str:
    """Put variables into a template: `{name}` is a place for one, `{{` and `}}` are braces.

    Args:
        template: null is the question alone.
        variables: values that are not text become JSON.
        question: the variable `question`, if there is one.

    Raises:
        InvalidInput: code `missing_variable`.
    """
    values = {**({} if question is None else {"question": question}), **(variables or {})}

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        if match[1] not in values:
            known = ", ".join(sorted(values)) or "none"
            raise InvalidInput(
                f"the template has no value for {{{match[1]}}}",
                fix=f"variables given: {known}",
                code="missing_variable",
            )
        found = values[match[1]]
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    return _PLACE.sub(value, "{question}" if template is None else template)
