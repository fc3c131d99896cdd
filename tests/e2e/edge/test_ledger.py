"""The ledger has what settlement needs, for every exchange and for nothing else."""

import asyncio
import json
import re

import pytest

from tests.e2e.edge.backend import CHUNKED_SSE, Step, answer, chunk
from tests.unit.meter import corpus

pytestmark = pytest.mark.asyncio(loop_scope="session")

_CHAT = "/v1/chat/completions"


async def test_end_line(edge):
    """The end line of an admitted exchange, whole."""
    script = edge.backend.script(answer(b'{"usage":{"completion_tokens":4}}'))
    async with edge.client() as client:
        response = await client.post(_CHAT, json={}, headers={"x-test-script": script})

    line = await edge.ended(response.headers["x-tollhouse-exchange"])
    assert 0 <= line.pop("duration_ms") < 5000
    assert float(line.pop("started_at")) > 1_700_000_000
    assert re.fullmatch("[0-9a-f]{16}", line.pop("span_id"))
    assert line == {
        "type": "DownstreamEnd",
        "exchange": response.headers["x-tollhouse-exchange"],
        "tenant": "acme",
        "key_id": "k1",
        "admitted": True,
        "facts": json.dumps({"tenant": "acme", "w": [1, 1, 5]}),
        "meter": "json,0,0,1,-,4,-,-,0,0,F,0",
        "code": 200,
        "grpc_status": None,
        "flags": "-",
        "details": "via_upstream",
        "refusal": None,
        "upstream_cluster": "tiny-chat",
        "upstream_host": f"127.0.0.1:{edge.backend.port}",
        "request_id": response.headers["x-request-id"],
        "trace_id": response.headers["x-tollhouse-trace"],
    }


async def test_rate_limit_headers(edge):
    """What extproc says of the limits is on the answer, even a backend's 500."""
    steps: list[Step] = [b"HTTP/1.1 500 No\r\nx-ratelimit-limit-tokens: 9\r\n"]
    steps += [b"content-length: 0\r\n\r\n"]
    script = edge.backend.script(steps)
    async with edge.client() as client:
        response = await client.post(_CHAT, json={}, headers={"x-test-script": script})

    limits = {
        name: value
        for name, value in response.headers.items()
        if name.startswith("x-ratelimit-")
    }
    assert response.status_code == 500
    assert limits == {
        f"x-ratelimit-{what}-{of}": value
        for of in ("requests", "tokens")
        for what, value in (("limit", "60"), ("remaining", "59"), ("reset", "1s"))
    }


@pytest.mark.parametrize("behaviour", ["429", "close", "error", "hang"])
async def test_line_of_a_refusal(edge, behaviour):
    """An exchange that was named and not admitted has a line, to be released by."""
    async with edge.client() as client:
        response = await client.post(f"{_CHAT}?{behaviour}", json={})

    line = await edge.ended(response.headers["x-request-id"], "request_id")
    assert (line["tenant"], line["key_id"]) == ("acme", "k1")
    assert (line["admitted"], line["facts"], line["meter"]) == (None, None, None)


async def test_no_line_without_an_exchange(edge):
    """What extproc never named is not in the ledger."""
    async with edge.client() as client:
        unnamed = [
            await client.post(_CHAT, json={}, headers={"authorization": "Bearer no"}),
            await client.post(f"{_CHAT}?429@headers", json={}),
            await client.get("/elsewhere"),
        ]
        named = await client.post(f"{_CHAT}?close", json={})

    await edge.ended(named.headers["x-request-id"], "request_id")
    logged = {line["request_id"] for line in edge.lines()}
    assert not logged & {response.headers["x-request-id"] for response in unnamed}


async def test_beats(edge):
    """While an exchange runs, a line every interval has the counts so far."""
    steps: list[Step] = [CHUNKED_SSE]
    for number in range(1, 31):
        steps += [chunk(corpus.joined([[corpus.comment(number), b"data: {}"]])), 0.02]
    seen = asyncio.Event()
    steps.insert(1 + 2 * 20, seen)
    script = edge.backend.script([*steps, b"0\r\n\r\n"])

    def told():
        lines = [line for line in edge.lines() if line["exchange"] == exchange]
        meters = [line["meter"] or "sse,0,0,0,0,0" for line in lines]
        return lines, [int(meter.split(",")[5]) for meter in meters]

    async with (
        edge.client() as client,
        client.stream(
            "POST", _CHAT, json={}, headers={"x-test-script": script}
        ) as response,
        asyncio.timeout(30),
    ):
        exchange = response.headers["x-tollhouse-exchange"]
        while told()[1].count(20) < 2:  # noqa: ASYNC110 - Envoy tells nobody
            await asyncio.sleep(0.02)
        seen.set()
        await response.aread()

    await edge.ended(exchange)
    lines, counts = told()
    *beats, end = lines
    assert {line["type"] for line in beats} == {"DownstreamPeriodic"}
    assert end["type"] == "DownstreamEnd"
    assert counts == sorted(counts)
    assert counts[-1] == 30
    assert all(line["admitted"] and line["facts"] for line in beats)
