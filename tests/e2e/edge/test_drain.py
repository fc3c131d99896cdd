"""Draining a real Envoy: what runs ends, what comes is served, clients leave."""

import asyncio
import contextlib

import httpx
import pytest
import pytest_asyncio

from tests.e2e.edge.backend import CHUNKED_SSE, answer, chunk
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import running_edge
from tollhouse.adapters.address import Address
from tollhouse.adapters.envoy_drain import drain_envoy

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
BODY = b'{"model": "tiny-chat", "messages": []}'
QUIET_SECONDS = 0.3


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge(tmp_path_factory):
    """An Envoy of these tests' own: none is as new after a drain."""
    async with running_edge(tmp_path_factory.mktemp("drain"), find_port) as running:
        yield running


def draining(edge, *, notice=0.2, most=20.0):
    return asyncio.create_task(
        drain_envoy(
            Address(host="127.0.0.1", port=edge.admin),
            notice_seconds=notice,
            quiet_seconds=QUIET_SECONDS,
            most_seconds=most,
        )
    )


@contextlib.asynccontextmanager
async def streaming(edge, client, pause):
    """A stream that has begun and goes on for so many seconds, or until an event."""
    steps = [CHUNKED_SSE, chunk(b"data: {}\n\n"), pause]
    script = edge.backend.script([*steps, chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"])
    headers = {"x-test-script": script}
    async with client.stream("POST", CHAT, content=BODY, headers=headers) as response:
        pieces = response.aiter_bytes()
        await anext(pieces)
        yield pieces


async def readiness(edge):
    """What a load balancer is told."""
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{edge.admin}/ready")).status_code


async def ask(edge, client):
    """A quick request."""
    script = edge.backend.script(answer(b"{}"))
    headers = {"x-test-script": script}
    return await client.post(CHAT, content=BODY, headers=headers)


@pytest.mark.timed
async def test_a_stream_ends_and_requests_are_served(edge):
    """Ready at first; then each answer asks the client to leave."""
    async with edge.client() as client, streaming(edge, client, 3.5) as pieces:
        drain = draining(edge, notice=0.8)
        await asyncio.sleep(0.1)
        assert 200 == await readiness(edge)
        assert "connection" not in (await ask(edge, client)).headers
        while 503 != await readiness(edge):  # noqa: ASYNC110 - Envoy wakes nobody
            await asyncio.sleep(0.02)
        for pause in (0.0, 1.0):  # before and after the listeners drain
            await asyncio.sleep(pause)
            served = await ask(edge, client)
            assert (200, "close") == (served.status_code, served.headers["connection"])
        assert not drain.done()

        assert b"[DONE]" in b"".join([piece async for piece in pieces])

        assert 0 == await drain


async def test_a_drain_that_takes_too_long_cuts_nothing(edge):
    """It says what is left; who asked decides."""
    goes_on = asyncio.Event()
    async with edge.client() as client, streaming(edge, client, goes_on) as pieces:
        assert 1 == await draining(edge, most=0.5)

        goes_on.set()
        assert b"[DONE]" in b"".join([piece async for piece in pieces])
