"""The event-stream writer and parser, by the rules of WHATWG HTML §9.2."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core import sse
from tollhouse.core.sse import Event


def parse(text: bytes) -> list[Event]:
    """Parse in one piece."""
    return sse.Parser().feed(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"data: a\n\n", [Event("a")]),
        (b"data:a\n\n", [Event("a")]),
        (b"data:  a\n\n", [Event(" a")]),
        (b"data: a\r\n\r\n", [Event("a")]),
        (b"data: a\r\r", [Event("a")]),
        (b"data: a\ndata: b\n\n", [Event("a\nb")]),
        (b"data\n\n", [Event("")]),
        (b"data\ndata\n\n", [Event("\n")]),
        (b": hello\ndata: a\n\n", [Event("a", "", ("hello",))]),
        (b": one\n:two\ndata: a\n\n", [Event("a", "", ("one", "two"))]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [Event("a", "error"), Event("b")]),
        (b"id: 7\nretry: 10\nnonsense: x\ndata: a\n\n", [Event("a")]),
        (b"data: a:b\n\n", [Event("a:b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
        (b"data: \xc3\xa9\n\n", [Event("é")]),
        (b"data: \xff\n\n", [Event("\ufffd")]),
        # no data: nothing is dispatched, and comment and name are forgotten
        (b"event: x\n: c\n\ndata: a\n\n", [Event("a")]),
        # no empty line: never dispatched
        (b"data: a\n", []),
        (b"data: a", []),
        (b"", []),
    ],
)
def test_blocks(text: bytes, expected: list[Event]):
    """Each rule once."""
    assert expected == parse(text)


FIELDS = st.sampled_from(
    [b"data: a", b"data:b", b"data", b": c", b"event: e", b"x: y", b"data: \xc3\xa9"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.lists(st.tuples(FIELDS | st.just(b""), ENDS), max_size=12)


@given(lines=LINES, cuts=st.lists(st.integers(0, 120), max_size=8), bom=st.booleans())
def test_any_split_gives_the_same_events(
    lines: list[tuple[bytes, bytes]], cuts: list[int], *, bom: bool
):
    """However the bytes are cut, CRLF in two and BOM in three, the events are those."""
    text = b"\xef\xbb\xbf" * bom + b"".join(line + end for line, end in lines)
    parser = sse.Parser()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    events = []
    for start, end in pairwise(edges):
        events += parser.feed(text[start:end])

    assert events == parse(text)
    assert events == by_the_letter(text)


@given(lines=LINES, bom=st.booleans())
def test_one_byte_at_a_time(lines: list[tuple[bytes, bytes]], *, bom: bool):
    """The finest split there is."""
    text = b"\xef\xbb\xbf" * bom + b"".join(line + end for line, end in lines)
    parser = sse.Parser()
    events = [event for byte in text for event in parser.feed(bytes([byte]))]

    assert events == by_the_letter(text)


def by_the_letter(text: bytes) -> list[Event]:
    """Interpret a whole stream line by line, as the standard is written."""
    decoded = text.decode("utf-8-sig", "replace")
    lines, line, index = [], "", 0
    while index < len(decoded):
        if decoded[index : index + 2] == "\r\n":
            lines.append(line)
            line, index = "", index + 2
        elif decoded[index] in "\r\n":
            lines.append(line)
            line, index = "", index + 1
        else:
            line, index = line + decoded[index], index + 1
    events: list[Event] = []
    data: list[str] = []
    comments: list[str] = []
    name = ""
    for line in lines:
        if not line:
            if data:
                events.append(Event("\n".join(data), name, tuple(comments)))
            data, comments, name = [], [], ""
            continue
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if colon and not field:
            comments.append(value)
        elif field == "data":
            data.append(value)
        elif field == "event":
            name = value
    return events


def test_writer():
    """A comment belongs to the block of its event."""
    assert sse.event(b"{}") == b"data: {}\n\n"
    assert sse.event(b"{}", comment=b"usage 1,2,0") == b": usage 1,2,0\ndata: {}\n\n"
    assert parse(sse.DONE) == [Event("[DONE]")]
