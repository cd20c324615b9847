"""Fetching from a real local server, and the refusal of every address that is not the public internet's."""

import asyncio
import gzip
import io
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pypdf
import pytest

from manta.errors import BlockedAddress, ToolError
from tools.fetch import FetchLimits, fetch_page
from tools.netguard import AddressGuard, is_public

ARTICLE = """<html><head><title>Rays &amp; skates</title></head><body><nav>Menu</nav><article><h1>Rays</h1>
<p>Manta rays are filter feeders that cross whole oceans in search of plankton, and they live for decades.</p>
<p>They have the largest brain of all fishes, relative to their size, and look at themselves in mirrors.</p>
</article><script>var secret = 1;</script></body></html>"""


def pdf_bytes() -> bytes:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(200, 200)
    writer.add_metadata({"/Title": "Blank"})
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


class Site(BaseHTTPRequestHandler):
    def do_GET(self):
        port = self.server.server_address[1]
        self.server.seen.append((self.path, self.headers.get("Host")))
        answers = {
            "/article": (200, {"content-type": "text/html"}, ARTICLE.encode()),
            "/plain": (200, {"content-type": "text/plain; charset=latin-1"}, "größe".encode("latin-1")),
            "/packed": (
                200,
                {"content-type": "text/html", "content-encoding": "gzip"},
                gzip.compress(ARTICLE.encode()),
            ),
            "/pdf": (200, {"content-type": "application/pdf"}, pdf_bytes()),
            "/broken.pdf": (200, {"content-type": "application/pdf"}, b"%PDF-1.4 nonsense"),
            "/image": (200, {"content-type": "image/png"}, b"\x89PNG"),
            "/missing": (404, {"content-type": "text/html"}, b"no"),
            "/bomb": (
                200,
                {"content-type": "text/html", "content-encoding": "gzip"},
                gzip.compress(bytes(60_000_000)),
            ),
            "/brotli": (200, {"content-type": "text/html", "content-encoding": "br"}, b"x"),
            "/torn": (200, {"content-type": "text/html", "content-encoding": "gzip"}, b"not gzip"),
            "/large": (200, {"content-type": "text/plain"}, b"x" * 6_000_000),
            "/once": (302, {"location": "/article"}, b""),
            "/forever": (302, {"location": "/forever"}, b""),
            "/to-other-port": (302, {"location": f"http://127.0.0.1:{port + 1}/"}, b""),
            "/to-metadata": (302, {"location": "http://169.254.169.254/latest/meta-data/"}, b""),
            "/to-file": (302, {"location": "file:///etc/passwd"}, b""),
        }
        if self.path == "/hang":
            self.server.hold.wait(30)
            return
        status, headers, body = answers[self.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # The fetch stopped reading at its cap.

    def log_message(self, *arguments: object):
        pass


@pytest.fixture
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.seen, server.hold = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


def guard_for(site) -> AddressGuard:
    return AddressGuard(allowed=frozenset({("127.0.0.1", site.server_address[1])}))


async def fetch(site, path: str, **limits):
    url = f"http://127.0.0.1:{site.server_address[1]}{path}"
    return await fetch_page(url, guard=guard_for(site), limits=FetchLimits(**limits))


@pytest.mark.parametrize("path", ["/article", "/packed", "/once"])
async def test_a_page_becomes_title_and_text(site, path):
    page = await fetch(site, path)
    assert page.title == "Rays & skates"
    assert "largest brain" in page.text
    assert "secret" not in page.text
    assert page.media_type == "text/html"
    assert page.url.endswith(path)
    assert page.final_url.endswith("/packed" if path == "/packed" else "/article")


async def test_plain_text_keeps_its_charset(site):
    assert (await fetch(site, "/plain")).text == "größe"


async def test_a_pdf_is_read(site):
    page = await fetch(site, "/pdf")
    assert (page.title, page.text, page.media_type) == ("Blank", "", "application/pdf")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/image", "unsupported_media_type"),
        ("/brotli", "unsupported_media_type"),
        ("/missing", "http_status"),
        ("/bomb", "too_large"),
        ("/large", "too_large"),
        ("/torn", "fetch_failed"),
        ("/forever", "fetch_failed"),
        ("/broken.pdf", "unreadable_page"),
    ],
)
async def test_what_cannot_be_used_has_a_code(site, path, code):
    with pytest.raises(ToolError) as caught:
        await fetch(site, path)
    assert caught.value.code == code
    assert caught.value.fix


async def test_a_bomb_is_stopped_by_its_ratio_before_its_size(site):
    with pytest.raises(ToolError, match="suspiciously"):
        await fetch(site, "/bomb", max_bytes=50_000_000)


async def test_redirects_are_counted(site):
    with pytest.raises(ToolError, match="more than 2 times"):
        await fetch(site, "/forever", max_redirects=2)
    assert len(site.seen) == 3


async def test_a_server_that_does_not_answer_is_given_up(site):
    with pytest.raises(ToolError) as caught:
        await fetch(site, "/hang", total_s=0.3)
    assert caught.value.code == "fetch_timeout"


@pytest.mark.parametrize("path", ["/to-other-port", "/to-metadata", "/to-file"])
async def test_a_redirect_is_checked_like_any_address(site, path):
    with pytest.raises(BlockedAddress):
        await fetch(site, path)
    assert len(site.seen) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost/", "http://2130706433/", "http://0x7f.1/",
        "http://127.1/", "http://0.0.0.0/", "http://169.254.169.254/latest/", "http://10.0.0.1/", "http://[::1]/",
        "http://[::ffff:127.0.0.1]/", "http://[::127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[fec0::1]/",
        "http://[2002:7f00:1::]/", "http://192.0.0.8/", "http://[ff0e::1]/", "http://[fe80::1]/",
        "file:///etc/passwd", "ftp://example.com/", "gopher://127.0.0.1/", "http://user:pw@example.com/",
        "http://8.8.8.8:22/",
    ],
)  # fmt: skip
async def test_the_default_guard_refuses(url):
    with pytest.raises(BlockedAddress):
        await fetch_page(url)


async def test_nothing_connects_to_a_refused_listener():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        with pytest.raises(BlockedAddress):
            await fetch_page(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "url", ["", "http://", "https:///path", "http://[::1", "http://a b/", "http://0177.0.0.1/"]
)
async def test_what_is_no_url_is_an_error_of_ours(url):
    with pytest.raises(ToolError):
        await fetch_page(url)


async def test_a_dead_port_is_a_failed_fetch():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    guard = AddressGuard(allowed=frozenset({("127.0.0.1", port)}))
    with pytest.raises(ToolError) as caught:
        await fetch_page(f"http://127.0.0.1:{port}/", guard=guard)
    assert caught.value.code == "fetch_failed"


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"])
def test_public_addresses_are_public(address):
    assert is_public(address)


async def test_cancelling_a_fetch_is_passed_on(site):
    task = asyncio.ensure_future(fetch(site, "/hang"))
    while not site.seen:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
