"""The meter reads the same however the stream is cut."""

import itertools
import json
import random
from collections.abc import Iterator

import pytest

from tests.unit.meter import corpus
from tests.unit.meter.lua_meter import metered, metered_json
from tests.unit.meter.reference import expected

_MULTI_LINE = [
    [
        b"data: {",
        b'data: "choices": [{"index": 0, "delta":',
        b'data:{"content": "a"}}]}',
    ],
    [b"id: 7", b"retry: 10", *corpus.event(corpus.chunk("b"))],
    [
        b"data: {",
        b'data:  "choices": [], "usage":',
        b'data: {"prompt_tokens": 1,',
        b'data: "completion_tokens": 2}}',
    ],
    [b"data:[DONE]"],
]


def _cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *places, len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


def cuts(stream: bytes) -> Iterator[list[bytes]]:
    for place in range(len(stream) + 1):
        yield [stream[:place], stream[place:]]
    yield [bytes([byte]) for byte in stream]
    chance = random.Random(1)
    for _ in range(100):
        count = min(chance.randint(2, 40), len(stream) - 1)
        places = chance.sample(range(1, len(stream)), count)
        yield _cut(stream, sorted(places))


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize(
    "events",
    [
        corpus.transcript(continuous=False, spaced=False),
        corpus.transcript(continuous=True, spaced=True),
        corpus.commented(),
        _MULTI_LINE,
    ],
    ids=["plain", "continuous", "commented", "multi-line"],
)
def test_any_cut(events, newline, strip):
    """Every two-part cut, single bytes and random cuts give what the whole gives."""
    stream = corpus.joined(events, newline)
    whole = expected(stream, strip=strip)

    for pieces in cuts(stream):
        assert metered(pieces, strip=strip) == whole, pieces


def test_the_reference_itself():
    """The expected values are not made by the meter's own logic alone."""
    events = corpus.transcript(continuous=False, spaced=False)
    stream, stripped = corpus.joined(events), corpus.joined(events[:-2] + events[-1:])

    kept, dropped = (expected(stream, strip=strip) for strip in (False, True))

    assert kept.usage == dropped.usage == "sse,9,6,1,412,6,128,3,0,0,DF,0"
    assert (kept.forwarded, dropped.forwarded) == (stream, stripped)


def test_comments_are_removed_and_read():
    """The frontend's counts are taken out of the stream, stripped or not."""
    events = corpus.commented()
    clean = [[line for line in lines if not line.startswith(b":")] for lines in events]
    stream = corpus.joined(events)

    kept, dropped = (metered([stream], strip=strip) for strip in (False, True))

    assert kept.forwarded == corpus.joined(clean)
    assert dropped.forwarded == corpus.joined(clean[:-2] + clean[-1:])
    assert kept.usage == dropped.usage == "sse,8,3:3,9,412,6,128,3,0,0,DF,0"


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_any_end(newline, strip):
    """A stream that stops at any byte loses none but what was ours to remove."""
    stream = corpus.joined(corpus.commented(), newline)
    for length in range(len(stream) + 1):
        head = stream[:length]
        for held in (1, 3, 200):
            pieces = [head[:-held], head[-held:]]

            forwarded = metered(pieces, strip=strip).forwarded

            assert forwarded == expected(head, strip=strip).forwarded, pieces


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("first", [True, False])
def test_any_cut_of_a_document(first, indent):
    """A JSON answer reads the same however it is cut, wherever its usage stands."""
    message = {"content": corpus.SPOOF, "tool": {"usage": corpus.usage(9)}}
    members = {"id": 'x"\\', "choices": [{"message": message}], "end": None}
    said = {"usage": corpus.usage(201)}
    document = json.dumps(said | members if first else members | said, indent=indent)

    for pieces in cuts(document.encode()):
        assert metered_json(pieces) == "json,0,0,1,412,201,128,3,0,0,F,0", pieces
