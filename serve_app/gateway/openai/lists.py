"""Lists as OpenAI pages them. Pure."""

from collections.abc import Sequence
from typing import Any

from serve_app.gateway.errors import BadField


def page(found: Sequence[dict[str, Any]], limit: int, after: str | None) -> dict[str, Any]:
    """So many objects behind the one whose id is `after`. Raises BadField when there is none."""
    ids = [one["id"] for one in found]
    if after is not None and after not in ids:
        raise BadField("after is not in the list", fix="take the last id of the page before", param="after")
    first = 0 if after is None else ids.index(after) + 1
    return listed(found[first : first + limit], more=len(found) > first + limit)


def listed(data: Sequence[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }
