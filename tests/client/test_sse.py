"""Reading server-sent events: frames from bytes cut anywhere, and the rules of following a run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.errors import InvalidInput, PlatformError
from manta.sse import FIRST_DELAY_S, LONGEST_DELAY_S, Follower, Frame, FrameParser, Patience


def frames(*chunks: bytes) -> list[Frame]:
    parser = FrameParser()
    return [frame for chunk in chunks for frame in parser.feed(chunk)]


def test_a_frame_has_event_data_and_id():
    assert frames(b"id: 7\nevent: custom\ndata: {}\n\n") == [Frame("custom", "{}", "7")]


def test_lines_of_data_are_joined_and_one_space_is_taken_off():
    assert frames(b"data:  a\ndata:b\n\n") == [Frame("message", " a\nb")]


def test_comments_and_frames_without_data_are_no_events():
    assert frames(b": keep-alive\n\nevent: custom\n\ndata: x\n\n") == [Frame("message", "x")]


def test_a_byte_order_mark_is_not_part_of_the_first_line():
    assert frames(b"\xef\xbb\xbfdata: x\n\n") == [Frame("message", "x")]


def test_a_frame_that_is_not_ended_is_not_delivered():
    assert frames(b"data: x\n") == []


@given(
    texts=st.lists(
        st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\u2028\u2029")),
        min_size=1,
    ),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(1, 7), min_size=1),
)
def test_cuts_anywhere_change_nothing(texts: list[str], newline: str, cuts: list[int]):
    stream = "".join(f"event: e{newline}data: {t}{newline}{newline}" for t in texts) + f": end{newline}"
    whole, chunks, n = stream.encode(), [], 0
    while whole:
        size = cuts[n % len(cuts)]
        chunks.append(whole[:size])
        whole, n = whole[size:], n + 1
    assert [f.data for f in frames(*chunks)] == texts


def follower(after: int = 0, clock: list[float] | None = None, limit: float = 10) -> Follower:
    now = clock or [0.0]
    return Follower("run", after, Patience("run", limit, lambda: now[0]), lambda: 5.0, lambda: now[0])


def custom(seq: int, kind: str = "call_done") -> bytes:
    event = {"run": "run", "seq": seq, "type": kind, "at": 1.0, "step": None, "data": {}}
    return f"id: {seq}\nevent: custom\ndata: {json.dumps(event)}\n\n".encode()


def test_an_event_seen_before_is_not_given_again():
    reader = follower(after=2)
    assert [e.seq for e in reader.feed(custom(1) + custom(2) + custom(3))] == [3]
    assert reader.headers()["Last-Event-ID"] == "3"


def test_a_new_connection_forgets_half_a_frame():
    reader = follower()
    assert list(reader.feed(custom(1)[:-5])) == []
    reader.headers()
    assert [e.seq for e in reader.feed(custom(1))] == [1]


def test_token_deltas_have_no_sequence_number():
    data = json.dumps([{"type": "AIMessageChunk", "content": "Hi"}, {"step": "plan"}])
    (event,) = follower().feed(f"event: messages\ndata: {data}\n\n".encode())
    assert (event.seq, event.type, event.step, event.data) == (0, "token", "plan", {"text": "Hi"})


@pytest.mark.parametrize("kind", ["run_done", "run_failed", "run_cancelled"])
def test_a_final_event_ends_it(kind: str):
    reader = follower()
    assert [e.seq for e in reader.feed(custom(1, kind) + custom(2))] == [1]
    assert reader.finished


def test_end_ends_it():
    reader = follower()
    list(reader.feed(b"event: end\ndata: {}\n\n"))
    assert reader.finished


ERROR = b'event: error\ndata: {"code":"%s","message":"it broke"}\n\n'


def test_an_error_is_raised_as_its_class_when_the_stream_ends():
    reader = follower()
    assert list(reader.feed(ERROR % b"invalid_input")) == []
    with pytest.raises(InvalidInput, match="it broke"):
        reader.broke_off()
    with pytest.raises(InvalidInput, match="it broke"):
        list(reader.feed(b"event: end\ndata: null\n\n"))


def test_the_event_that_says_the_same_is_enough():
    reader = follower()
    assert [e.type for e in reader.feed(ERROR % b"step_failed" + custom(1, "run_failed"))] == ["run_failed"]
    assert reader.finished


def test_an_error_that_may_pass_is_left_to_the_next_connection():
    reader = follower()
    assert list(reader.feed(ERROR % b"coordinator_unavailable")) == []
    assert reader.broke_off() == FIRST_DELAY_S
    assert not reader.finished


@pytest.mark.parametrize("data", ["{", "[]", '{"seq": 1}', "7"])
def test_an_event_that_is_none_is_an_error(data: str):
    with pytest.raises(PlatformError, match="unexpected_answer"):
        list(follower().feed(f"event: custom\ndata: {data}\n\n".encode()))


def test_patience_grows_its_pauses_and_ends():
    now = [0.0]
    patience = Patience("run", 10, lambda: now[0])
    pauses = [patience.lost("gone") for _ in range(8)]
    assert pauses[0] == FIRST_DELAY_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_DELAY_S
    now[0] = 10.5
    with pytest.raises(PlatformError, match="gone"):
        patience.lost("gone")


def test_an_event_renews_patience():
    now = [0.0]
    reader = follower(clock=now)
    reader.patience.lost("gone")
    now[0] = 9.0
    list(reader.feed(custom(1)))
    now[0] = 18.0
    assert reader.patience.lost("gone") == FIRST_DELAY_S


def test_a_keep_alive_renews_patience_but_not_its_pauses():
    now = [0.0]
    reader = follower(clock=now)
    for _ in range(10):
        now[0] += 9.0
        pause = reader.patience.lost("an idle connection was cut")
        assert list(reader.feed(b": keep-alive\n\n")) == []
    assert now[0] > 10
    assert pause == LONGEST_DELAY_S


def test_keep_alives_do_not_hide_a_silent_run():
    now = [0.0]
    reader = follower(clock=now)
    list(reader.feed(custom(1)))
    for _ in range(3):
        assert not reader.silent(40)
        now[0] += 15.0
        list(reader.feed(b": keep-alive\n\n"))
    assert reader.silent(40)
    assert not reader.silent(None)
    list(reader.feed(custom(2)))
    assert not reader.silent(40)


def test_a_slow_reader_is_no_silent_run():
    now = [0.0]
    reader = follower(clock=now)
    for _ in reader.feed(custom(1) + b": keep-alive\n\n"):
        now[0] += 100.0
    assert not reader.silent(40)
