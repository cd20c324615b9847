"""Search against a real server that speaks SearXNG's JSON, and the errors when there is none."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from manta.errors import ToolError
from tools.search import SearchHit, WebSearch, web_search


class Searx(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = parse_qs(urlsplit(self.path).query)
        self.server.asked.append(asked)
        query = asked["q"][0]
        results = [
            {
                "title": f"Hit {n}",
                "url": f"https://example.org/{n}",
                "content": f"about {query}",
                "engine": "x",
            }
            for n in range(3)
        ]
        results[2].pop("content")
        answers = {
            "nothing": (200, {"query": query, "results": []}),
            "deaf": (200, {"results": [], "unresponsive_engines": [["bing", "timeout"]]}),
            "forbidden": (403, {}),
            "odd": (200, {"hits": []}),
        }
        status, body = answers.get(
            query, (200, {"query": query, "results": results, "unresponsive_engines": []})
        )
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: object):
        pass


@pytest.fixture
def searx():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Searx)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def engine(server) -> WebSearch:
    return WebSearch("searxng", f"http://127.0.0.1:{server.server_address[1]}/")


async def test_searxng_hits_in_order_and_cut(searx):
    hits = await engine(searx).search("manta rays", limit=2)
    assert hits == [
        SearchHit("Hit 0", "https://example.org/0", "about manta rays"),
        SearchHit("Hit 1", "https://example.org/1", "about manta rays"),
    ]
    assert searx.asked == [{"q": ["manta rays"], "format": ["json"]}]


async def test_a_hit_may_lack_a_snippet(searx):
    assert (await engine(searx).search("rays"))[2].snippet == ""


async def test_nothing_found_is_an_empty_list(searx):
    assert await engine(searx).search("nothing") == []


@pytest.mark.parametrize(
    ("query", "hint"), [("deaf", "bing: timeout"), ("forbidden", "formats"), ("odd", "JSON")]
)
async def test_a_failure_is_never_an_empty_list(searx, query, hint):
    with pytest.raises(ToolError, match=hint) as caught:
        await engine(searx).search(query)
    assert caught.value.code == "search_unavailable"


async def test_a_server_that_is_gone():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ToolError, match="--docs") as caught:
        await WebSearch("searxng", url).search("rays")
    assert caught.value.code == "search_unavailable"


async def test_duckduckgo_offline_says_so():
    try:
        socket.getaddrinfo("duckduckgo.com", 443)
    except OSError:
        pass
    else:
        pytest.skip("this machine can resolve duckduckgo.com, so it is not offline")
    with pytest.raises(ToolError, match="--docs") as caught:
        await web_search("manta rays")
    assert caught.value.code == "search_unavailable"


@pytest.mark.parametrize(("arguments", "query"), [(("searxng",), "x"), (("bing",), "x"), ((), "  ")])
async def test_a_wrong_call_is_refused(arguments, query):
    with pytest.raises(ToolError) as caught:
        await WebSearch(*arguments).search(query)
    assert caught.value.code == "bad_input"
