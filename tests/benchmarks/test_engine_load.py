"""The load on an inference server: what is asked, what is counted, and which rows and targets come of it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.engine import Streaming, _options, measure, targets
from benchmarks.engine_load import Clock, Heard, Prompts
from benchmarks.http_load import OverHttp

TEXTS = ("The", " tide", "", " turns")


class Answering(BaseHTTPRequestHandler):
    asked: list[dict] = []
    fails = False

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "first"}, {"id": "second"}]}))

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.fails:
            self._send(503, '{"error": "full"}')
            return
        events = [{"choices": [{"text": text}]} for text in TEXTS]
        last = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}}
        lines = [f"data: {json.dumps(event)}\n\n" for event in (*events, last)]
        self._send(200, "".join(lines) + "data: [DONE]\n\n")

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Answering, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_all_prompts_are_asked_and_their_usage_counted(url: str) -> None:
    heard = await OverHttp("peer", url).run(["one", "two", "three"], 4)
    assert (heard.tokens, heard.prompt_tokens) == (12, 21)
    # An event without text is none of the model's.
    assert (len(heard.first), len(heard.gaps)) == (3, 6)
    assert sorted(body["prompt"] for body in Answering.asked) == ["one", "three", "two"]
    assert {body["model"] for body in Answering.asked} == {"first"}
    assert all(body["stream"] and body["ignore_eos"] and body["max_tokens"] == 4 for body in Answering.asked)


async def test_a_refusal_ends_the_benchmark(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answering, "fails", True)
    with pytest.raises(RuntimeError, match="peer: 503"):
        await OverHttp("peer", url, "second").run(["one"], 4)


def test_prompts_share_no_beginning() -> None:
    prompts = Prompts()
    texts = prompts.several(50, 40)
    assert len({text.split(" ")[0] for text in texts}) == 50
    assert {len(text.split(" ")) for text in texts} == {37}


def test_gaps_begin_after_the_first_text() -> None:
    clock = Clock(began=1.0)
    for now in (1.5, 2.0, 4.0):
        clock.text(now)
    assert clock.first == [0.5]
    assert clock.gaps == [0.5, 2.0]


class Steady:
    """Answers as many tokens a second as it is told; a beginning it knows takes a tenth."""

    def __init__(self, name: str, rate: float) -> None:
        self.name = name
        self._rate = rate
        self._known: set[str] = set()

    async def run(self, prompts: list[str], new_tokens: int) -> Heard:
        beginning = prompts[0][:200]
        share = 0.1 if beginning in self._known else 1.0
        self._known.add(beginning)
        tokens = new_tokens * len(prompts)
        return Heard(tokens, 10, share * tokens / self._rate, (0.1,), (0.2, 0.4))


class Peer:
    name = "transformers"

    async def decode(self, prompts: list[str], new_tokens: int) -> float:
        return 10.0

    async def prefill(self, prompt: str) -> float:
        return 100.0


async def test_rows_of_each_of_ours_and_targets_of_the_first() -> None:
    ours = [Streaming(Steady("int8", 90.0)), Streaming(Steady("none", 20.0))]
    rows = await measure(ours, [Peer()], rounds=1)
    ratios = {row.case: row.ratio for row in rows}
    assert ratios["decode 1"] == ratios["decode 32"] == 9.0
    assert ratios["decode 16 (none)"] == 2.0
    assert ratios["prefill"] == 9.0
    assert ratios["shared prefix"] == ratios["shared prefix (none)"] == 10.0
    met = {target.case: target.met for target in targets(rows)}
    assert met == {
        "decode 1": True,
        "decode 16": True,
        "decode 32": True,
        "prefill": True,
        "shared prefix": False,
    }
    assert ours[0].latencies()["16"] == {
        "first_token_ms": 100.0,
        "gap_p50_ms": 200.0,
        "gap_p95_ms": 400.0,
        "gap_p99_ms": 400.0,
    }


def test_peers_over_http_need_ours_over_http(capsys: pytest.CaptureFixture[str]) -> None:
    assert _options(["--serve", "--peer", "llama.cpp=http://h:1"]).peer == ["llama.cpp=http://h:1"]
    for wrong in (["--peer", "a=http://h"], ["--http", "http://h", "--peer", "a"]):
        with pytest.raises(SystemExit):
            _options(wrong)
    assert "NAME=URL" in capsys.readouterr().err
