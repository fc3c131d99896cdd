"""Bodies of clients nobody knows are bounded as a whole, not only each by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import NoSuchStreamError, ProtocolError, StreamClosedError

from tests.e2e.edge.backend import answer
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import Edge, running_edge

pytestmark = pytest.mark.asyncio(loop_scope="session")

_HEAP = 200 << 20
_CONNECTIONS = 8
_STREAMS = 50
_BODY = 5 << 19  # 2.5 MiB, of 3 allowed


@pytest_asyncio.fixture(loop_scope="session")
async def small_edge(tmp_path) -> AsyncIterator[Edge]:
    """An edge with a heap of 200 MiB."""
    async with running_edge(
        tmp_path, find_port, patched={"max_heap_size_bytes": str(_HEAP)}
    ) as edge:
        yield edge


async def _hoard(edge: Edge) -> None:
    """Send bodies on one connection without ending one, until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    connection = H2Connection(H2Configuration())
    connection.initiate_connection()
    left = dict.fromkeys(range(1, 2 * _STREAMS, 2), _BODY)
    headers = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost")]
    headers += [(":path", "/v1/chat/completions"), ("authorization", "Bearer junk")]
    for stream in left:
        connection.send_headers(stream, headers)
    try:
        while True:
            for stream in left:
                with contextlib.suppress(StreamClosedError, NoSuchStreamError):
                    window = connection.local_flow_control_window(stream)
                    if length := min(16_384, left[stream], window):
                        connection.send_data(stream, bytes(length))
                        left[stream] -= length
            writer.write(connection.data_to_send())
            await writer.drain()
            if not (received := await reader.read(65_536)):
                break
            connection.receive_data(received)
    except (ConnectionError, ProtocolError):
        pass
    finally:
        writer.close()


async def test_hoarded_bodies(small_edge):
    """Who fills the memory with unfinished bodies is cut off; others are served."""
    script = small_edge.backend.script(answer(b"{}"))
    hoards = [asyncio.create_task(_hoard(small_edge)) for _ in range(_CONNECTIONS)]

    await asyncio.wait_for(asyncio.gather(*hoards), 60)

    largest = small_edge.rss()  # Envoy gives pages back slowly
    async with small_edge.client() as client:
        response = await client.post(
            "/v1/chat/completions", json={}, headers={"x-test-script": script}
        )
    assert response.status_code == 200
    assert largest < _CONNECTIONS * _STREAMS * _BODY
    assert len(small_edge.authorization.checked) == 1
