"""The lean client, its process, and what the gateway's benchmark makes of the answers."""

import asyncio

import pytest

from benchmarks.gateway import BARE, OURS, Load, Subject, added_ms, measure, order, targets
from benchmarks.harness import Side
from benchmarks.lean_client import NUMBER, Answer, Pool, Reader, question
from benchmarks.lean_load import Order
from benchmarks.lean_process import End, Heard, Timed, hear, lines
from tests.benchmarks.lean_server import (
    ANSWER,
    END,
    HEAD,
    LAST,
    ROLE,
    STREAM,
    TEXT,
    chunk,
    event,
    lean_server,
    whole,
)

BODY = {"messages": [{"role": "user", "content": f"{NUMBER} why?"}], "stream": True}
PLAIN = {"messages": []}


async def ask(url: str, body: dict = BODY, key: str = "") -> Answer:
    pool = Pool()
    answer = await pool.ask(question(url, "/v1/chat/completions", body, key), 42, 0.0)
    pool.close()
    return answer


async def test_a_stream_is_timed_and_its_usage_read() -> None:
    async with lean_server() as server:
        answer = await ask(server.url, key="mk_1")
    assert (answer.status, answer.fault, answer.tokens_in, answer.tokens_out) == (200, "", 7, 3)
    assert answer.first <= answer.whole
    assert server.bodies[0]["messages"][0]["content"] == "00000042 why?"
    assert "Authorization: Bearer mk_1" in server.heads[0]


async def test_a_whole_answer_has_a_length() -> None:
    async with lean_server(ANSWER[:30], ANSWER[30:60], ANSWER[60:]) as server:
        answer = await ask(server.url, PLAIN)
    assert (answer.fault, answer.tokens_out) == ("", 3)


def test_the_role_alone_is_no_text() -> None:
    reader = Reader()
    assert not reader.feed(HEAD + ROLE, 1.0)
    assert reader.first_at is None
    # A mark may be cut anywhere.
    assert not reader.feed(TEXT[:40], 2.0)
    assert not reader.feed(TEXT[40:], 3.0)
    assert reader.first_at in (2.0, 3.0)


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ((whole(429, {"error": {}}),), "status 429"),
        ((HEAD, TEXT, event({"error": {"code": "replica_lost"}}), END), "cut off"),
        ((HEAD, ROLE, LAST, chunk(b"data: [DONE]\n\n"), END), "no text"),
        ((HEAD, TEXT, None), "ConnectionError"),
        ((b"HTTP/1.1 200 OK\r\n\r\n", None), "ValueError"),
        ((None,), "ConnectionError"),
    ],
)
async def test_what_is_not_whole_is_a_fault(pieces: tuple[bytes | None, ...], fault: str) -> None:
    async with lean_server(*pieces) as server:
        answer = await ask(server.url)
    assert answer.fault.startswith(fault)


async def test_nobody_listens() -> None:
    async with lean_server() as server:
        url = server.url
    assert (await ask(url)).fault.startswith("ConnectionRefusedError")


async def test_connections_are_kept_and_lost_ones_replaced() -> None:
    async with lean_server() as server:
        pool, asked = Pool(), question(server.url, "/", BODY)
        for number in range(3):
            assert not (await pool.ask(asked, number, 0.0)).fault
        assert server.connections == 1
        server.pieces = (*STREAM[:3], None)
        assert (await pool.ask(asked, 3, 0.0)).fault
        server.pieces = STREAM
        assert not (await pool.ask(asked, 4, 0.0)).fault
        pool.close()
    assert server.connections == 2


async def test_clients_that_never_rest_ask_so_often_together() -> None:
    async with lean_server() as server:
        heard = await hear(Order(server.url, "/", BODY, clients=3, requests=20))
    assert (len(heard.good), heard.faults, heard.end.asked) == (20, [], 20)
    assert server.connections == 3
    assert heard.end.cpu_s > 0
    assert {body["messages"][0]["content"] for body in server.bodies} == {
        f"{number:08d} why?" for number in range(1, 21)
    }


async def test_arrivals_are_the_same_for_the_same_seed() -> None:
    async with lean_server() as server:
        order = Order(server.url, "/", BODY, rate=200.0, requests=30, seed=5)
        first, second = await hear(order), await hear(order)
    due = [sorted(timed.since for timed in heard.answers) for heard in (first, second)]
    assert len(due[0]) == 30
    assert due[0] == due[1]


async def test_a_load_that_is_stopped_tells_what_it_has() -> None:
    stop = asyncio.Event()
    async with lean_server() as server:
        told = lines(Order(server.url, "/", BODY, rate=50.0, seconds=3600, seed=1), stop)
        answers: list[Timed] = []
        async for piece in told:
            if isinstance(piece, End):
                assert piece.asked == len(answers) > 0
                break
            answers += piece
            stop.set()
        await told.aclose()


class Told:
    """A subject whose figures are known beforehand."""

    def __init__(self, ms: float, rate: float) -> None:
        self._ms, self._rate = ms, rate

    async def warm_up(self) -> None:
        pass

    async def whole(self) -> float:
        return self._ms

    async def stream(self) -> float:
        return 2 * self._ms

    def take_firsts(self) -> list[float]:
        return [self._ms / 2]

    async def throughput(self) -> float:
        return self._rate


async def test_rows_and_targets() -> None:
    subjects: dict = {OURS: Told(11.0, 70.0), BARE: Told(10.0, 100.0)}
    rows = await measure(subjects, 3)
    assert [(r.case, r.ratio) for r in rows] == [
        ("gateway", 0.909),
        ("gateway first text", 0.909),
        ("gateway stream", 0.909),
        ("gateway throughput", 0.7),
    ]
    assert [target.met for target in targets(rows)] == [True, True, True, False]
    assert added_ms(rows) == {"gateway": 1.0, "gateway first text": 0.5, "gateway stream": 2.0}
    idle = await measure(subjects, 1, "gateway, idle model")
    assert [row.case for row in idle][:2] == ["gateway, idle model", "gateway, idle model first text"]


async def test_a_subject_over_http() -> None:
    used = iter([{"proxy": 1.0}, {"proxy": 1.5}])
    async with lean_server() as server:
        load = Load(tokens=3, requests=4, clients=2, seconds=0.2)
        subject = Subject(order(server.url, "/bare", "idle", 3), load, lambda: next(used))
        stream: Side = subject.stream
        assert await stream() > 0
        assert len(subject.take_firsts()) == 1
        assert subject.take_firsts() == []
        assert await subject.throughput() > 0
        assert {"proxy", "the client"} <= set(subject.costs_us())
        server.pieces = (ANSWER,)
        assert await subject.whole() > 0
    assert server.heads[0].startswith("POST /bare/v1/chat/completions ")
    assert "stream" not in server.bodies[-1]


async def test_an_answer_that_fails_ends_the_benchmark() -> None:
    async with lean_server(whole(401, {})) as server:
        subject = Subject(order(server.url, "", "idle", 3), Load(3, 1, 1, 1.0), dict)
        with pytest.raises(RuntimeError, match="status 401"):
            await subject.whole()


def test_figures_of_a_load() -> None:
    answers = [Timed(i / 10, Answer(i / 100, i / 10, 200)) for i in range(1, 101)]
    heard = Heard([*answers, Timed(1.0, Answer(9.0, 9.0, 503, "status 503"))], End(50.0, 101, 0.1, 0.0))
    assert heard.rate == 2.0
    assert heard.first(0.95) == 0.95
    assert heard.faults == ["status 503"]
