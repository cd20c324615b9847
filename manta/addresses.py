"""Addresses of servers as they may be told to anybody."""

from urllib.parse import urlsplit

HIDDEN = "***"


def shown_url(url: str) -> str:
    """Scheme, host, port and path of a URL, without what may be a secret: user, password, query, fragment."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return HIDDEN
    if not host or "@" in parts.path:
        # A password with a slash in it makes the host of what is none.
        return HIDDEN
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "") + parts.path
