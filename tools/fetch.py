"""Fetch a web page as text: one URL in, title and readable text out, with nothing trusted on the way.

Every hop passes the address guard; bodies are unpacked piece by piece under a size and a ratio cap.
"""

import asyncio
import io
import zlib
from dataclasses import dataclass
from email.message import Message

import httpcore
import httpx

from manta.errors import BlockedAddress, ToolError
from tools.netguard import AddressGuard, GuardedTransport

_HTML = frozenset({"text/html", "application/xhtml+xml"})
_PLAIN = frozenset(
    {"text/plain", "text/markdown", "text/csv", "application/json", "application/xml", "text/xml"}
)
_PDF = "application/pdf"
_MEDIA_TYPES = _HTML | _PLAIN | {_PDF}
_USER_AGENT = "manta-fetch/1 (research agent)"
_FREE_RATIO_BYTES = 1 << 20
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """max_bytes: after unpacking. max_ratio: unpacked to packed, looked at from the first megabyte on."""

    connect_s: float = 10
    total_s: float = 30
    max_bytes: int = 5_000_000
    max_ratio: int = 100
    max_redirects: int = 5
    max_pdf_pages: int = 200


@dataclass(frozen=True, slots=True)
class Page:
    """`final_url` is where redirects led; `media_type` has no parameters; `title` may be empty."""

    url: str
    final_url: str
    title: str
    text: str
    media_type: str


async def fetch_page(
    url: str, *, guard: AddressGuard = AddressGuard(), limits: FetchLimits = FetchLimits()
) -> Page:
    """Fetch and read one page.

    Raises: BlockedAddress for an address the guard refuses, on any hop; ToolError with code 'bad_url',
    'fetch_failed', 'fetch_timeout', 'http_status', 'too_large', 'unsupported_media_type', 'unreadable_page'.
    """
    try:
        async with asyncio.timeout(limits.total_s):
            final_url, media_type, charset, body = await _download(url, guard, limits)
            title, text = await asyncio.to_thread(_read, media_type, charset, body, limits)
    except (TimeoutError, httpx.TimeoutException, httpcore.TimeoutException) as error:
        raise ToolError(f"{url} took too long", fix="try another source", code="fetch_timeout") from error
    except (httpx.HTTPError, httpcore.NetworkError, httpcore.ProtocolError) as error:
        reason = str(error) or type(error).__name__
        raise ToolError(
            f"{url} cannot be fetched: {reason}", fix="try another source", code="fetch_failed"
        ) from error
    return Page(url, final_url, title, text, media_type)


async def _download(url: str, guard: AddressGuard, limits: FetchLimits) -> tuple[str, str, str, bytes]:
    target = _checked_url(url)
    headers = {
        "user-agent": _USER_AGENT,
        "accept-encoding": "gzip, deflate",
        "accept": ", ".join(sorted(_MEDIA_TYPES)),
    }
    timeout = httpx.Timeout(limits.total_s, connect=limits.connect_s)
    # trust_env off: a proxy from the environment would do the look-up instead of the guard.
    async with httpx.AsyncClient(
        transport=GuardedTransport(guard), trust_env=False, timeout=timeout, headers=headers
    ) as client:
        for _ in range(limits.max_redirects + 1):
            async with client.stream("GET", target) as response:
                location = response.headers.get("location")
                if response.status_code in (301, 302, 303, 307, 308) and location:
                    target = _checked_url(str(target.join(location)))
                    client.cookies.clear()
                    continue
                if response.status_code != 200:
                    message = f"{target} answered {response.status_code}"
                    raise ToolError(message, fix="try another source", code="http_status")
                media_type, charset = _media_type(response.headers.get("content-type", ""), str(target))
                return str(target), media_type, charset, await _body(response, limits)
    raise ToolError(
        f"{url} redirects more than {limits.max_redirects} times",
        fix="try another source",
        code="fetch_failed",
    )


def _checked_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise ToolError(
            f"this is no URL: {error}", fix="use http://... or https://...", code="bad_url"
        ) from error
    if parsed.scheme not in ("http", "https"):
        raise BlockedAddress(
            f"{parsed.scheme or 'a URL without scheme'} cannot be fetched", fix="use http or https"
        )
    if parsed.userinfo:
        raise BlockedAddress(
            "a URL with a user name or password is not fetched", fix="leave the user name out"
        )
    if not parsed.host:
        raise ToolError("the URL names no host", fix="use http://host/path", code="bad_url")
    return parsed


def _media_type(header: str, url: str) -> tuple[str, str]:
    message = Message()
    message["content-type"] = header or "application/octet-stream"
    media_type = message.get_content_type()
    if media_type not in _MEDIA_TYPES:
        fix = "HTML, plain text, JSON, XML and PDF can be read"
        raise ToolError(f"{url} is {media_type}", fix=fix, code="unsupported_media_type")
    return media_type, message.get_content_charset("")


async def _body(response: httpx.Response, limits: FetchLimits) -> bytes:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise ToolError(
            f"the page is packed as {encoding}", fix="try another source", code="unsupported_media_type"
        )
    unpack = None if encoding in ("identity", "") else zlib.decompressobj(zlib.MAX_WBITS | 32)
    body = bytearray()
    packed = 0
    async for piece in response.aiter_raw():
        packed += len(piece)
        waiting = piece
        while waiting:
            # A piece at a time: one network read of a bomb can hold a thousand times its size.
            try:
                body += unpack.decompress(waiting, _PIECE) if unpack else waiting
            except zlib.error as error:
                raise ToolError(
                    "the page is packed wrongly", fix="try another source", code="fetch_failed"
                ) from error
            waiting = unpack.unconsumed_tail if unpack else b""
            _check_size(len(body), packed, limits)
    return bytes(body)


def _check_size(size: int, packed: int, limits: FetchLimits) -> None:
    if size > limits.max_bytes:
        raise ToolError(
            f"the page is larger than {limits.max_bytes} bytes", fix="try another source", code="too_large"
        )
    if size > _FREE_RATIO_BYTES and size > packed * limits.max_ratio:
        raise ToolError("the page unpacks suspiciously large", fix="try another source", code="too_large")


def _read(media_type: str, charset: str, body: bytes, limits: FetchLimits) -> tuple[str, str]:
    if media_type == _PDF:
        return _read_pdf(body, limits)
    if media_type in _HTML:
        return _read_html(body, charset)
    return "", _decode(body, charset or "utf-8").strip()


def _decode(body: bytes, charset: str) -> str:
    try:
        return body.decode(charset, errors="replace")
    except LookupError:
        return body.decode("utf-8", errors="replace")


def _read_html(body: bytes, charset: str) -> tuple[str, str]:
    import trafilatura

    # Without a declared charset the library detects it, from the page's own meta tag for one.
    source: str | bytes = _decode(body, charset) if charset else body
    tree = trafilatura.load_html(source)
    if tree is None:
        raise ToolError("the page holds no HTML", fix="try another source", code="unreadable_page")
    title = " ".join((tree.findtext(".//title") or "").split())
    text = trafilatura.extract(tree, include_comments=False, include_tables=True) or ""
    if not text:
        text = " ".join(" ".join(tree.itertext()).split())
    return title, text


def _read_pdf(body: bytes, limits: FetchLimits) -> tuple[str, str]:
    import pypdf

    try:
        reader = pypdf.PdfReader(io.BytesIO(body))
        title = (reader.metadata.title if reader.metadata else None) or ""
        pages = [page.extract_text() for page in reader.pages[: limits.max_pdf_pages]]
    except (pypdf.errors.PyPdfError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ToolError(
            f"the PDF cannot be read: {error}", fix="try another source", code="unreadable_page"
        ) from error
    return title, "\n\n".join(pages).strip()
