"""Messages of gRPC out of bodies cut anywhere."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.adapters.grpc_frames import Frames, framed
from tollhouse.core.problems import Kind, Problem


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_messages_come_whole_wherever_the_body_is_cut(messages, data):
    body = b"".join(map(framed, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    bounds = [0, *cuts, len(body)]
    frames, found = Frames(), list[bytes]()
    for start, end in itertools.pairwise(bounds):
        found += frames.feed(body[start:end])

    assert messages == found
    assert frames.is_between


def test_half_a_message_waits():
    frames = Frames()

    assert [] == list(frames.feed(framed(b"message")[:-1]))
    assert not frames.is_between


def test_a_message_before_a_bad_one_is_whole():
    """What the client is answered for is what came before."""
    frames = Frames()
    messages = frames.feed(framed(b"first") + b"\1\0\0\0\0")

    assert b"first" == next(messages)
    with pytest.raises(Problem):
        next(messages)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\1\0\0\0\2\x1f\x8b", Kind.UNSUPPORTED_ENCODING),
        (b"\x80\0\0\0\0", Kind.UNSUPPORTED_ENCODING),
        (b"\0\0\0\0\5", Kind.INVALID_REQUEST),
        (b"\0\xff\xff\xff\xff", Kind.INVALID_REQUEST),
    ],
    ids=["compressed", "unknown flag", "too large", "far too large"],
)
def test_what_is_not_read_is_refused_at_once(body, kind):
    """From its head, before any of it is held."""
    with pytest.raises(Problem) as caught:
        list(Frames(largest=4).feed(body))

    assert kind is caught.value.kind


def test_the_largest_message_passes():
    assert [b"four"] == list(Frames(largest=4).feed(framed(b"four")))
