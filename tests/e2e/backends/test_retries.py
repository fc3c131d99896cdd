"""What is tried again on another host: only what no host has begun."""

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.e2e.edge.backend import CHUNKED_SSE, Backend, Ending, Step, answer, chunk
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import Edge, running_edge
from tests.e2e.running_stack import short_folder
from tollhouse.adapters.address import Address

BODY = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"w"}}]}\n\n'
ASKED = 4
"""Times each: of two hosts either may be first."""


@contextlib.asynccontextmanager
async def two_hosts(
    usual: Sequence[Step], *, second_listens: bool = True
) -> AsyncIterator[tuple[Edge, Backend]]:
    """An edge whose cluster has two hosts, which answer alike."""
    second = Backend(usual=usual, port=find_port())
    with short_folder() as folder, socket.socket() as taken:
        if second_listens:
            await second.start()
        else:  # nor does anybody else meanwhile
            taken.bind(("127.0.0.1", second.port))
        hosts = [Address(host="127.0.0.1", port=second.port)]
        async with running_edge(Path(folder), find_port, hosts=hosts) as edge:
            edge.backend.usual = usual
            yield edge, second
    await second.stop()


async def ask(edge: Edge) -> httpx.Response | None:
    """Ask once; None: the answer broke off."""
    body = {"model": "m", "messages": []}
    async with edge.client() as client:
        try:
            return await client.post("/v1/chat/completions", content=json.dumps(body))
        except httpx.TransportError:
            return None


async def test_a_refused_connection_is_tried_on_another_host():
    """Nobody has seen the request."""
    async with two_hosts(answer(BODY), second_listens=False) as (edge, _):
        answers = [await ask(edge) for _ in range(ASKED)]

        assert [200] * ASKED == [it.status_code for it in answers if it]
        assert len(edge.backend.received) == ASKED
        assert await edge.counter("cluster.tiny-chat.upstream_rq_retry") >= 1


@pytest.mark.parametrize(
    "usual",
    [
        pytest.param([Ending.RESET], id="before headers"),
        pytest.param([CHUNKED_SSE, 0.05, Ending.RESET], id="after headers"),
        pytest.param([CHUNKED_SSE, chunk(EVENT), 0.05, Ending.RESET], id="in the body"),
        pytest.param([CHUNKED_SSE, chunk(EVENT), 0.05, Ending.CLOSE], id="closed"),
        pytest.param(answer(b"{}", status=503), id="503"),
        pytest.param(answer(b"{}", status=502), id="502"),
        pytest.param(answer(b"{}", status=429), id="429"),
    ],
)
async def test_what_a_host_has_seen_is_not_repeated(usual):
    """It may be generating: a second one would cost, and be billed to nobody."""
    async with two_hosts(usual) as (edge, second):
        for _ in range(ASKED):
            await ask(edge)

        seen = len(edge.backend.received) + len(second.received)
        assert seen == ASKED
        assert await edge.counter("cluster.tiny-chat.upstream_rq_retry") == 0
