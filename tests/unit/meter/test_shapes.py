"""What the APIs beside chat say of their usage, and whose words an error has."""

from typing import Any

import pytest

from tests.unit.meter import corpus, shapes
from tests.unit.meter.lua_meter import metered
from tests.unit.meter.reference import ERRORS, WORDS, expected
from tests.unit.meter.test_cuts import cuts

_STREAMS = {
    "responses": (shapes.responses(), "sse,11,6,1,412,6,128,3,0,0,F,0"),
    "messages": (shapes.messages(), "sse,11,4,3,412,6,100,-,0,0,F,0"),
    "without a cache": (
        shapes.messages(cached=None),
        "sse,11,4,3,12,6,-,-,0,0,F,0",
    ),
    "generate": (shapes.generate(), "sse,5,4,4,412,8,-,-,0,0,F,209"),
}


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("name", _STREAMS)
def test_any_cut(name, newline):
    """Every two-part cut, single bytes and random cuts give what the whole gives."""
    events, usage = _STREAMS[name]
    stream = corpus.joined(events, newline)
    whole = expected(stream, strip=True, foreign=True)

    assert (stream, usage) == (whole.forwarded, whole.usage)
    for pieces in cuts(stream):
        assert metered(pieces, strip=True, foreign=True) == whole, pieces


def test_messages_that_break_off():
    """The output that message_start says is none yet: events count until the end."""
    stream = corpus.joined(shapes.messages()[:5])

    assert metered([stream]).usage == "sse,5,2,1,412,-,100,-,0,0,F,0"


@pytest.mark.parametrize(
    ("head", "error", "dialect"),
    [
        (corpus.transcript(continuous=True, spaced=False), "openai", "openai"),
        (corpus.transcript(continuous=True, spaced=False), "with output", "openai"),
        (corpus.transcript(continuous=False, spaced=True), "flat", "openai"),
        (corpus.transcript(continuous=False, spaced=True), "named", "openai"),
        (corpus.transcript(continuous=False, spaced=False), "like output", "openai"),
        (corpus.transcript(continuous=False, spaced=True), "text", "openai"),
        (shapes.responses(), "typed", "responses"),
        (shapes.responses(), "failed", "responses"),
        (shapes.messages(), "anthropic", "anthropic"),
        (shapes.messages(), "openai", "anthropic"),
        (shapes.messages(), "text", "anthropic"),
        (shapes.generate(), "triton", "triton"),
    ],
)
@pytest.mark.parametrize("foreign", [False, True])
def test_an_error(head, error, dialect, foreign):
    """A foreign backend's words reach nobody, however cut; nor do Triton's."""
    stream = shapes.broken(head, error)
    whole = expected(stream, strip=False, foreign=foreign)
    replaced = foreign or dialect == "triton"

    for pieces in cuts(stream):
        assert metered(pieces, foreign=foreign) == whole, pieces
    before, after = corpus.joined(head[:3]), corpus.joined(head[3:4])
    if replaced:
        assert whole.forwarded == before + ERRORS[dialect] + after
        assert shapes.CANARY.encode() not in whole.forwarded
    else:
        assert whole.forwarded == stream
    is_told = replaced or error not in {"text", "named", "like output"}
    assert whole.usage.split(",")[-2] == ("B" if is_told else "F")


def test_only_the_usage_itself():
    """What stands beside it, in whatever object, is none."""
    spoof = {"usage": {"cached_tokens": 9, "reasoning_tokens": 9}, "text": "x"}
    said = {"input_tokens": 412, "output_tokens": 6}
    events: list[dict[str, Any]] = [
        {"type": "response.completed", "response": {"usage": said, "a": [spoof]}},
        {"type": "response.completed", "response": {"id": "x"}, "item": spoof},
        {"response": {"id": "x"}, "item": {"usage": {"input_tokens": 9}}},
        {"delta": {"type": "signature_delta"}, "item": {"text": "x"}},
        {"choices": [], "item": {"usage": said | {"output_tokens": 9}}},
    ]
    stream = corpus.joined([corpus.event(one) for one in events])

    assert metered([stream]).usage == "sse,5,0,1,412,6,-,-,0,0,F,0"


def test_an_error_without_its_end():
    """What a foreign backend began to say of its failure reaches nobody either."""
    head = corpus.joined([corpus.event(corpus.chunk("a"))])
    tail = b'data: {"error":{"message":"' + shapes.CANARY.encode()

    got = metered([head + tail[:20], tail[20:]], foreign=True)

    assert got.forwarded == head + ERRORS["openai"]
    assert got.usage == "sse,2,1,0,-,-,-,-,0,0,B,0"


def test_what_is_no_error():
    """Text, null and deeper keys of that name are answers like any other."""
    events = [
        corpus.event(corpus.chunk('{"error":{"message":"x"}}') | {"error": None}),
        corpus.event(corpus.chunk("a", delta={"content": "b", "error": {"a": 1}})),
        corpus.event({"type": "response.created", "response": {"error": None}}),
        [b"event: message", *corpus.event(corpus.chunk("error"))],
        [b": error"],
        [b"data:"],
    ]
    stream = corpus.joined(events)

    got = metered([stream], foreign=True)

    assert (got.forwarded, got.usage) == (stream, "sse,4,3,0,-,-,-,-,0,0,F,0")


@pytest.mark.parametrize("size", [1000, 65_000, 1_000_000])
@pytest.mark.parametrize("error", [None, {"message": shapes.CANARY}])
def test_an_event_over_the_bound(size, error):
    """The last event of responses repeats the answer: its usage counts at any size."""
    usage = {"input_tokens": 412, "output_tokens": 60_000}
    response = {"output": ["x" * 200_000], "usage": usage, "error": error}
    last = {"type": "response.completed", "response": response}
    stream = corpus.joined([*shapes.responses()[:-1], corpus.event(last)])
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]

    got = metered(pieces, foreign=True)

    over = "O" if size < 200_000 else ""
    flag = "B" if error else "F"
    assert got.usage == f"sse,11,6,1,412,60000,-,-,0,0,{flag}{over},0"
    assert shapes.CANARY.encode() not in got.forwarded
    if error:
        assert WORDS.encode() in got.forwarded
    else:
        assert got.forwarded == stream
