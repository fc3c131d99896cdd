"""Requests written by hand, where an HTTP client would be too polite."""

import asyncio
import contextlib
import re
from collections.abc import Iterable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived, StreamEnded, StreamReset

from tests.e2e.edge.edge import KEY, Edge

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)")


async def exchange(edge: Edge, *pieces: bytes, answers: int = 1) -> bytes:
    """Send the pieces on a new connection; return the bytes of so many answers.

    Fewer, if the connection ends before.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    received = asyncio.create_task(_read(reader, answers))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass  # answered before all was sent
    try:
        return await asyncio.wait_for(received, 30)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, answers: int) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        for _ in range(answers):
            head = await reader.readuntil(b"\r\n\r\n")
            received += head
            if length := _LENGTH.search(head):
                received += await reader.readexactly(int(length[1]))
    return received


def request(
    path: str = "/v1/chat/completions",
    *,
    method: str = "POST",
    body: bytes = b"",
    headers: Iterable[str] = (),
    length: bool = True,
) -> bytes:
    """Return a request with a good key that asks for the connection to close."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: localhost",
        f"authorization: {KEY}",
        "connection: close",
        *headers,
    ]
    if length:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    """Return the status of an answer; 0 if there was none."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


async def upload_http2(edge: Edge, size: int, *, declared: bool = False) -> int:
    """Send a body and read meanwhile; return the status, or 0 for a mere reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    connection = H2Connection(H2Configuration())
    connection.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost")]
    headers += [(":path", "/v1/chat/completions"), ("authorization", KEY)]
    if declared:
        headers.append(("content-length", str(size)))
    connection.send_headers(1, headers)
    status, ended, left = 0, False, size
    async with asyncio.timeout(30):
        while not ended:
            while left and (window := connection.local_flow_control_window(1)):
                length = min(window, connection.max_outbound_frame_size, left)
                left -= length
                connection.send_data(1, bytes(length), end_stream=not left)
            writer.write(connection.data_to_send())
            for event in connection.receive_data(await reader.read(65_536)):
                if isinstance(event, ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
                ended = ended or isinstance(event, StreamEnded | StreamReset)
    writer.close()
    return status
