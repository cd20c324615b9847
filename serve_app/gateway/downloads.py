"""Files that are given out."""

from typing import Any

DOWNLOAD = {
    "Content-Type": "application/octet-stream",
    # Never rendered by a browser: what a run or a model made is not to be trusted as a page of this origin.
    "Content-Disposition": "attachment",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of such an answer."""
FILE_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
"""What an OpenAPI document says of it."""
