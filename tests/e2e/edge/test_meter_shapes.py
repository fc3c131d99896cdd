"""The meter inside Envoy: the APIs beside chat, and whose words an error has."""

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.e2e.edge.backend import Step, answer, chunk, chunked
from tests.e2e.edge.edge import Edge
from tests.unit.meter import corpus, shapes
from tests.unit.meter.reference import ERRORS, OPENAI_ERROR, WORDS
from tests.unit.meter.test_documents import binary

pytestmark = pytest.mark.asyncio(loop_scope="session")

_STREAMS = {
    "responses": (shapes.responses(), "sse,11,6,1,412,6,128,3,F,0"),
    "messages": (shapes.messages(), "sse,11,4,3,412,6,100,-,F,0"),
    "generate": (shapes.generate(), "sse,5,4,4,412,8,-,-,F,209"),
}


async def _ask(
    edge: Edge,
    steps: Sequence[Step],
    path: str = "/v1/responses",
    *,
    foreign: bool = True,
) -> tuple[httpx.Response, str]:
    """Let the backend do these steps; return the answer and the meter's string."""
    headers = {"x-test-script": edge.backend.script(steps)}
    url = path + ("?foreign" if foreign else "")
    async with edge.client() as client:
        response = await client.post(url, json={}, headers=headers)
    line = await edge.ended(response.headers["x-tollhouse-exchange"])
    fields = line["meter"].split(",")
    return response, ",".join(fields[:8] + fields[10:])


@pytest.mark.parametrize("name", _STREAMS)
async def test_any_chunking(edge, name):
    """However the backend cuts its stream, the counts and the bytes are the same."""
    events, usage = _STREAMS[name]
    stream = corpus.joined(events)
    places = sorted(random.Random(7).sample(range(1, len(stream)), 25))
    cut = [stream[a:b] for a, b in itertools.pairwise([0, *places, len(stream)])]

    for pieces in ([stream], cut, [bytes([byte]) for byte in stream]):
        response, meter = await _ask(edge, chunked(pieces))

        assert (response.content, meter) == (stream, usage)


@pytest.mark.parametrize(
    ("head", "error", "dialect"),
    [
        (corpus.transcript(continuous=False, spaced=False), "openai", "openai"),
        (shapes.responses(), "failed", "responses"),
        (shapes.messages(), "anthropic", "anthropic"),
        (shapes.generate(), "triton", "triton"),
    ],
)
async def test_an_error_in_a_stream(edge, head, error, dialect):
    """What a foreign backend says of its failure reaches nobody; it is not final."""
    stream = shapes.broken(head, error)

    response, meter = await _ask(edge, chunked([stream[:-9], stream[-9:]]))

    before, after = corpus.joined(head[:3]), corpus.joined(head[3:4])
    assert response.content == before + ERRORS[dialect] + after
    assert meter.split(",")[-2] == "B"


async def test_our_own_error_passes(edge):
    """The frontend's words are ours already."""
    stream = shapes.broken(corpus.transcript(continuous=False, spaced=False), "openai")

    response, meter = await _ask(edge, chunked([stream]), foreign=False)

    assert response.content == stream
    assert meter.split(",")[-2] == "B"


async def test_an_error_with_status_200(edge):
    """It is worded by us although its length was declared."""
    said = {"usage": {"input_tokens": 5, "output_tokens": 0}}
    body = json.dumps({"error": {"message": shapes.CANARY}} | said).encode()

    response, meter = await _ask(edge, answer(body))

    ours: dict[str, Any] = {"error": json.loads(OPENAI_ERROR)}
    assert response.json() == ours | said
    assert meter == "json,0,0,1,5,0,-,-,B,0"


async def test_an_error_of_triton_with_status_200(edge):
    """Triton's generate answers so when a model says more than one thing."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    head += b"transfer-encoding: chunked\r\n\r\n"
    body = chunk(b'{"error":"%s"}' % shapes.CANARY.encode())
    steps = [head, body, b"0\r\n\r\n"]

    response, meter = await _ask(edge, steps, foreign=False)

    assert response.json() == {"error": WORDS}
    assert meter == "json,0,0,0,-,-,-,-,B,0"


async def test_binary_tensors(edge):
    """What follows the JSON of Triton's infer is read and passes as it came."""
    length, body = binary()
    header = f"inference-header-content-length: {length}\r\n"
    steps = answer(body, "application/octet-stream", header)

    path = "/v2/models/tiny-chat/infer"
    response, meter = await _ask(edge, steps, path, foreign=False)

    assert response.content == body
    assert response.headers["inference-header-content-length"] == str(length)
    assert response.headers["content-length"] == str(len(body))
    assert meter == f"json,0,1,1,412,{0x01020304},-,-,F,7"
