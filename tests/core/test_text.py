from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanpaca.core.text import TextStream

pieces = st.lists(st.binary(max_size=4), max_size=12)


def feed_all(stream, chunks):
    shown = [stream.feed(chunk) for chunk in chunks]
    return shown, stream.finish()


@given(st.text(max_size=30), st.lists(st.integers(0, 90), max_size=8))
def test_text_comes_through_whole_however_it_is_cut(text, cuts):
    data = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    points = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    chunks = [data[a:b] for a, b in pairwise(points)]
    shown, rest = feed_all(TextStream(), chunks)
    assert "".join(shown) + rest == data.decode()
    assert "\ufffd" in text or not any("\ufffd" in part for part in shown), "half a character was shown"


@given(pieces, st.lists(st.text("ab中", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stop_text_never_shows_and_nothing_after_it(chunks, stops):
    stream = TextStream(stops)
    shown, rest = feed_all(stream, chunks)
    whole = b"".join(chunks).decode("utf-8", "replace")
    found = min((at for stop in stops if (at := whole.find(stop)) >= 0), default=None)
    assert "".join(shown) + rest == (whole if found is None else whole[:found])
    assert stream.stopped == (found is not None)


def test_text_that_may_begin_a_stop_text_waits_and_then_shows():
    stream = TextStream(["STOP"])
    assert [stream.feed(b"a ST"), stream.feed(b"AR"), stream.feed(b" ST")] == ["a ", "STAR", " "]
    assert stream.finish() == "ST"


def test_bytes_that_are_no_text_are_shown_as_such():
    stream = TextStream()
    assert stream.feed(b"\xff\xfe") + stream.feed(b"a") + stream.finish() == "\ufffd\ufffda"


@pytest.mark.parametrize("character", ["é", "中", "🙂"])
def test_one_byte_at_a_time(character):
    shown, rest = feed_all(TextStream(), [bytes([byte]) for byte in character.encode()])
    assert shown[-1] == character and not any(shown[:-1]) and not rest
