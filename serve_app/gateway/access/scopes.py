"""Which scope a request needs. Pure; goes by the path that the router sees, never by a URL."""

import re
from typing import Literal, TypeAlias

from coordinator.store.key_records import Scope
from serve_app.gateway.guard import SAFE_METHODS

Need: TypeAlias = Scope | Literal["nothing", "key"]
"""`nothing`: not even a key; `key`: any that holds."""

_OPEN = re.compile(r"/|/healthz?|/readyz")
_FOR_ANY_KEY = re.compile(r"/openapi\.json|/v1/models(/.*)?|/models(/.*)?")
_CHAT = re.compile(r"/v1(/.*)?")
_KEPT = re.compile(r"/v1/(batches|files)(/.*)?|/v1/responses/.+")
"""What is kept of OpenAI's API: runs of the tenant, and their files."""
_MODELS = re.compile(r"/models(/.*)?")
_SEARCHES = re.compile(
    r"/(runs|threads|agents)/search|/store/items/search|/store/namespaces"
    r"|/collections/[^/]+/search|/threads/[^/]+/stream"
)
"""What is read by POST."""
_RUNS = re.compile(r"/(runs|threads|agents|graphs|store|schedules|approvals|files|collections)(/.*)?")


def needed(method: str, path: str) -> Need:
    """The scope for a request; `method` is `WEBSOCKET` for one. What is not known is for `admin` alone."""
    reading = method in SAFE_METHODS
    if _OPEN.fullmatch(path):
        return "nothing"
    if reading and _FOR_ANY_KEY.fullmatch(path):
        return "key"
    if _KEPT.fullmatch(path):
        return "runs:read" if reading else "runs:write"
    if _CHAT.fullmatch(path):
        return "chat"
    if _MODELS.fullmatch(path):
        return "models:write"
    if _RUNS.fullmatch(path):
        # A WebSocket on a thread takes commands too.
        searching = method == "POST" and _SEARCHES.fullmatch(path)
        return "runs:read" if reading or searching else "runs:write"
    return "admin"


def allows(scopes: frozenset[str], need: Need) -> bool:
    return need in ("nothing", "key") or need in scopes or "admin" in scopes
