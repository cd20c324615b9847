"""Streaming text: whole characters only, and never a part of a stop string."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders
from tokenizers.models import BPE

from serve_app.engine.engine import Engine
from serve_app.engine.text_stream import Detokenizer, StopFilter, TextStream


def feed(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    """What is sent for each piece (and at the end), and whether it stopped."""
    filter = StopFilter(stops)
    sent = []
    for piece in pieces:
        sent.append(filter.push(piece))
        if filter.stopped:
            return sent, True
    return [*sent, filter.flush()], False


@pytest.mark.parametrize(
    ("pieces", "sent", "stopped"),
    [
        (["Hello EN", "D never"], ["Hello ", ""], True),
        (["Hello E", "N", "D"], ["Hello ", "", ""], True),
        (["an E", "N", "d"], ["an ", "", "ENd", ""], False),
        (["EEN", "D"], ["E", ""], True),
        (["it ends EN"], ["it ends ", "EN"], False),
        (["END"], [""], True),
    ],
)
def test_stop_across_pieces(pieces: list[str], sent: list[str], stopped: bool) -> None:
    assert feed(["END"], pieces) == (sent, stopped)


def test_the_earliest_of_several_stops_wins() -> None:
    assert feed(["xyz", "\n"], ["a", "b\nxyz"]) == (["a", "b"], True)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stops_like_a_search_in_the_whole_text(text: str, stops: list[str], data) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    sent, stopped = feed(stops, pieces)
    # The text as it had arrived when the filter stopped: a stop that ends later cannot be known yet.
    seen = "".join(pieces[: len(sent)]) if stopped else text
    first = min((at for stop in stops if (at := seen.find(stop)) >= 0), default=None)
    assert stopped == (first is not None)
    assert "".join(sent) == (text if first is None else seen[:first])
    assert not any(stop in "".join(sent) for stop in stops)


@given(st.text("ab<", max_size=30), st.lists(st.text("ab<", min_size=1, max_size=3), max_size=2), st.data())
def test_stops_count_only_before_the_mark(text: str, stops: list[str], data) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    filter = StopFilter(stops, until="<<")
    sent = ""
    for begin, end in pairwise([0, *cuts, len(text)]):
        sent += "" if filter.stopped else filter.push(text[begin:end])
    sent += "" if filter.stopped else filter.flush()
    mark = text.find("<<")
    before = text if mark < 0 else text[:mark]
    if filter.stopped:
        # It may run on into the mark, but it began before.
        assert text.startswith(sent)
        assert len(sent) <= len(before)
        assert any(text[len(sent) :].startswith(stop) for stop in stops)
    else:
        assert sent == text
        assert not any(stop in before for stop in stops)


TEXTS = (
    "Plain words, and 2024 numbers.",
    "Grüße aus Zürich, naïve café",
    "日本語のテキストと中文字符",
    "👩‍👩‍👧‍👦 family, 🇨🇭 flag, 🏳️‍🌈",
    "def f(x):\n\treturn x ** 2  # спасибо\n\n\n",
    "zalgo: z̸̢̛a̶l̵g̶o̷ and \u200b zero width",
)


@pytest.mark.parametrize("text", TEXTS)
def test_detokenising_gives_the_text_and_no_half_characters(smol_loaded: Engine, text: str) -> None:
    ids = smol_loaded.encode(text)
    stream = Detokenizer(smol_loaded.decode)
    pieces = [stream.push(token) for token in ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + stream.flush() == text == smol_loaded.decode(ids)
    assert stream.flush() == ""


@given(st.text(max_size=40))
def test_any_text_comes_back(smol_loaded: Engine, text: str) -> None:
    stream = TextStream(smol_loaded.decode, ())
    ids = smol_loaded.encode(text)
    assert "".join([stream.push(token) for token in ids]) + stream.finish() == smol_loaded.decode(ids)


def test_broken_bytes_come_out_at_the_end(smol_loaded: Engine) -> None:
    ids = smol_loaded.encode("a🌧")[:-1]
    stream = Detokenizer(smol_loaded.decode)
    assert "".join(stream.push(token) for token in ids) == "a"
    assert "\ufffd" in stream.flush()


def test_spaces_survive_a_decoder_that_strips_the_first_one() -> None:
    words = ["▁one", "▁two", "▁three", "<0xC3>", "<0xA9>"]
    backend = Backend(BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    ids = [0, 1, 2, 3, 4] * 10
    stream = Detokenizer(lambda tokens: backend.decode(list(tokens)))
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.flush() == "one two threeé" + " one two threeé" * 9
