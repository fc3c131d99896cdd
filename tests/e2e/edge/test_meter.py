"""The meter inside Envoy: what the ledger says and what the client got."""

import asyncio
import itertools
import random
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.edge.backend import (
    CHUNKED_SSE,
    Ending,
    Step,
    answer,
    chunk,
    chunked,
)
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import Edge, running_edge
from tests.unit.meter import corpus

pytestmark = pytest.mark.asyncio(loop_scope="session")

_COMMENTED = corpus.joined(corpus.commented())
_CLEAN = [
    [line for line in lines if not line.startswith(b":")]
    for lines in corpus.commented()
]
_STRIPPED = corpus.joined(_CLEAN[:-2] + _CLEAN[-1:])
_CHAT = "/v1/chat/completions"
_SSE = "text/event-stream"
_GZIP = "content-encoding: gzip\r\n"
_USAGE = "sse,8,3:3,9,412,6,128,3"


async def _ask(
    edge: Edge, steps: Sequence[Step], *, strip: bool = True, http2: bool = False
) -> tuple[httpx.Response, dict[str, Any]]:
    """Let the backend do these steps; return the answer and its ledger line."""
    headers = {"x-test-script": edge.backend.script(steps)}
    path = _CHAT + ("?strip" if strip else "")
    async with edge.client(http2=http2) as client:
        response = await client.post(path, json={}, headers=headers)
    return response, await edge.ended(response.headers["x-tollhouse-exchange"])


def _without_times(line: dict[str, Any]) -> str:
    kept = line["meter"].split(",")
    return ",".join(kept[:8] + kept[10:])


def _cuttings(stream: bytes) -> Iterator[list[bytes]]:
    yield [stream]
    yield [bytes([byte]) for byte in stream]
    chance = random.Random(7)
    for _ in range(10):
        places = sorted(chance.sample(range(1, len(stream)), 25))
        yield [stream[a:b] for a, b in itertools.pairwise([0, *places, len(stream)])]


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("strip", [False, True])
async def test_any_chunking(edge, strip, http2):
    """However the backend cuts its stream, the counts and the bytes are the same."""
    for pieces in _cuttings(_COMMENTED):
        response, line = await _ask(edge, chunked(pieces), strip=strip, http2=http2)

        assert response.content == (_STRIPPED if strip else corpus.joined(_CLEAN))
        assert _without_times(line) == f"{_USAGE},DF,0"


@pytest.mark.timed
async def test_times(edge):
    """First and last time are those of the events with text."""
    steps: list[Step] = [CHUNKED_SSE]
    for number, lines in enumerate(corpus.commented()):
        steps += [chunk(corpus.joined([lines])), 0.1 if number in {0, 1, 6} else 0.0]
    _, line = await _ask(edge, [*steps, b"0\r\n\r\n"])

    first, last = (int(at) for at in line["meter"].split(",")[8:10])
    started = float(line["started_at"]) * 1000
    ended = started + line["duration_ms"]
    assert started + 100 <= first
    assert first + 100 <= last
    assert last + 99 <= ended


@pytest.mark.parametrize(
    "ended",
    [_COMMENTED[:-1], _COMMENTED[:-2], _COMMENTED.rstrip() + b"\n: ", _COMMENTED[:-30]],
)
@pytest.mark.parametrize("strip", [False, True])
async def test_end_on_a_frame_with_bytes(edge, ended, strip):
    """With END_STREAM on the last bytes themselves, none of them is lost.

    A declared length lets Envoy see the end together with the bytes.
    """
    last = ended.rindex(b"data: ")
    (whole,) = answer(ended, _SSE)
    steps: list[Step] = [whole[: last - len(ended)], 0.05, ended[last:]]

    # The declared length is the backend's; the meter makes the answer shorter.
    response, line = await _ask(edge, steps, strip=strip)

    clean = re.sub(rb": usage [\d,]+\n", b"", ended)
    if strip:
        usage = corpus.joined([_CLEAN[-2]])
        clean = clean.replace(usage, b"")
    assert response.content == clean
    assert line["meter"].endswith("F,0")


async def test_upstream_reset(edge):
    """A backend that breaks off shows: to the client, and as no F in the ledger."""
    whole = corpus.joined(corpus.commented()[:4])
    seen = asyncio.Event()
    script = edge.backend.script([CHUNKED_SSE, chunk(whole), seen, Ending.RESET])
    received = b""
    async with (
        edge.client() as client,
        client.stream(
            "POST", _CHAT, json={}, headers={"x-test-script": script}
        ) as response,
    ):
        pieces = response.aiter_raw()
        while len(received) < len(corpus.joined(_CLEAN[:4])):
            received += await anext(pieces)
        seen.set()
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)

    line = await edge.ended(response.headers["x-tollhouse-exchange"])
    assert received == corpus.joined(_CLEAN[:4])
    assert _without_times(line) == "sse,4,1:2,4,412,3,128,-,,0"
    assert line["code"] == 200
    assert line["flags"] in {"UC", "UPE", "UR"}


@pytest.mark.timed
@pytest.mark.parametrize("commented", [False, True])
@pytest.mark.parametrize("http2", [False, True])
async def test_client_leaves(edge, http2, commented):
    """What a client got before it left is metered, within two events."""
    for wanted in (1, 7, 20):
        steps: list[Step] = [CHUNKED_SSE]
        for number in range(1, 200):
            event = corpus.event(corpus.chunk(f"t{number}"))
            if commented:
                event = [corpus.comment(number), *event]
            steps += [chunk(corpus.joined([event])), 0.005]
        script = edge.backend.script(steps)
        got = 0
        async with (
            edge.client(http2=http2) as client,
            client.stream(
                "POST",
                "/v1/chat/completions",
                json={},
                headers={"x-test-script": script},
            ) as response,
        ):
            async for piece in response.aiter_raw():
                got += piece.count(b"data: ")
                if got >= wanted:
                    break

        line = await edge.ended(response.headers["x-tollhouse-exchange"])
        _, events, contents, _, _, output, *_ = line["meter"].split(",")
        assert got <= int(events) <= got + 2
        assert (contents, output) == (events, events if commented else "-")
        assert "F" not in line["meter"].split(",")[-2]
        assert line["details"].startswith("downstream")
        await asyncio.wait_for(edge.backend.gone.wait(), 30)


@pytest.mark.parametrize("size", [200, 3_000_000])
async def test_json(edge, size):
    """A JSON answer is read as it passes, and passes as it came."""
    body = b'{"choices":[{"message":{"content":"%s \\"usage\\":{"}}],"usage":' % (
        b"x" * size
    )
    body += b'{"prompt_tokens":11,"completion_tokens":7,'
    body += b'"prompt_tokens_details":{"cached_tokens":5}}}'

    response, line = await _ask(edge, answer(body))

    assert response.content == body
    assert line["meter"] == "json,0,0,1,11,7,5,-,0,0,F,0"


@pytest.mark.parametrize(
    ("steps", "meter"),
    [
        (answer(b'{"usage":{"prompt_tokens":1}}', status=500), None),
        (answer(b""), "json,0,0,0,-,-,-,-,0,0,F,0"),
    ],
    ids=["500", "empty"],
)  # fmt: skip
async def test_what_has_no_usage(edge, steps, meter):
    """Failed and empty answers pass untouched and say so."""
    script = edge.backend.script(steps)
    async with (
        edge.client() as client,
        client.stream(
            "POST", _CHAT, json={}, headers={"x-test-script": script}
        ) as response,
    ):
        raw = b"".join([piece async for piece in response.aiter_raw()])

    line = await edge.ended(response.headers["x-tollhouse-exchange"])
    assert line["meter"] == meter
    assert steps[0].endswith(b"\r\n\r\n" + raw)


@pytest.mark.parametrize(
    "steps",
    [
        answer(b"secret", _SSE, _GZIP),
        answer(b'{"usage":{"prompt_tokens":1}} secret', "text/plain"),
        [b"HTTP/1.1 204 Nothing\r\n\r\n"],
    ],
    ids=["encoded", "other type", "204"],
)
async def test_what_cannot_be_read_is_not_told(edge, steps):
    """Else it would be given away: nobody could say what was used."""
    response, line = await _ask(edge, steps)

    assert response.status_code == line["code"] == 502
    assert response.json()["error"]["code"] == "upstream_error"
    assert "secret" not in response.text
    assert line["meter"] is None


@pytest_asyncio.fixture(loop_scope="session")
async def fresh_edge(tmp_path) -> AsyncIterator[Edge]:
    """An edge of its own, whose memory nobody else used."""
    async with running_edge(tmp_path, find_port) as edge:
        yield edge


async def test_memory_is_flat_over_100k_events(fresh_edge):
    """A stream of 100,000 events, counted and rewritten, costs Envoy no memory."""
    await _ask(fresh_edge, chunked([_COMMENTED]))
    event = b": usage 412,%d,128\ndata: "
    event += b'{"choices":[{"index":0,"delta":{"content":"t%d"}}]}\n\n'
    pieces = [
        b"".join(event % (number, number) for number in range(start, start + 10))
        for start in range(1, 100_001, 10)
    ]
    before = fresh_edge.rss()

    response, line = await _ask(fresh_edge, chunked(pieces))

    assert _without_times(line) == "sse,100000,100000,100000,412,100000,128,-,F,0"
    assert len(response.content) > 4_000_000
    assert fresh_edge.rss() - before < 32 << 20


async def test_no_script_errors(edge):
    """After all of the above the script has not failed once."""
    assert await edge.counter("lua.errors") == 0
