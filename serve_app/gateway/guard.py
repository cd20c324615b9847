"""What is refused before any route sees it: a page of another site that makes a browser talk to this machine.

A loopback address is no protection from browsers: any page may send requests there, and by a name of its own
that it points at 127.0.0.1 (DNS rebinding) it may also read the answers. Such requests carry that name as `Host`.
"""

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from manta.config import is_loopback
from serve_app.gateway.errors import refusal

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d*)?")
MAX_HEADER_BYTES = 16 << 10
_ORIGIN = re.compile(rf"https?://{_HOST.pattern}")


def allowed_hosts(bound_to: str) -> tuple[str, ...]:
    """The hosts to allow where the gateway listens on `bound_to`; none, for any, when that is not loopback."""
    if not is_loopback(bound_to):
        return ()
    host = bound_to.strip("[]").lower()
    named = f"[{host}]" if ":" in host else host
    return tuple(dict.fromkeys((*LOOPBACK_HOSTS, named)))


class HostGuard:
    """ASGI middleware: 400 `bad_host` for another `Host`, 403 `bad_origin` for another site's `Origin`.

    Also 431 `headers_too_large`, for what the server lets pass.

    Args:
        hosts: names and addresses without a port; none lets every origin pass, and every host that is one.
        origins: other sites that may come.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], origins: Iterable[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origin.lower() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        # Not from the request's URL, which is put together from these headers and more.
        hosts, origins = header_values(scope, b"host"), header_values(scope, b"origin")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            message = f"the headers are over {MAX_HEADER_BYTES >> 10} KiB"
            await refusal(scope, 431, "headers_too_large", message, "send fewer")(scope, receive, send)
        elif not self._hosts and (not hosts or (len(hosts) == 1 and _HOST.fullmatch(hosts[0].lower()))):
            await self._app(scope, receive, send)
        elif len(hosts) != 1 or not self._ours(_HOST, hosts[0]):
            name = hosts[0][:100] if hosts else "none"
            await refusal(scope, 400, "bad_host", f"this is not host {name!r}", "use 127.0.0.1 or localhost")(
                scope, receive, send
            )
        elif scope.get("method") not in SAFE_METHODS and not all(map(self._may_come, origins)):
            message = f"a page of {origins[0][:100]!r} may not do this"
            await refusal(scope, 403, "bad_origin", message, "send no Origin, or the platform's own")(
                scope, receive, send
            )
        else:
            await self._app(scope, receive, send)

    def _may_come(self, origin: str) -> bool:
        return origin.strip().lower() in self._origins or self._ours(_ORIGIN, origin)

    def _ours(self, pattern: re.Pattern[str], value: str) -> bool:
        match = pattern.fullmatch(value.strip().lower())
        return match is not None and match[1] in self._hosts


def header_values(scope: Scope, name: bytes) -> list[str]:
    """Every value of a header; `name` in small letters."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]
