"""Requests written by hand, where an HTTP client would be too polite."""

import asyncio
from collections.abc import Iterable

from tests.e2e.edge.edge import KEY, Edge


async def exchange(edge: Edge, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send the pieces on a new connection; return all bytes until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    received = asyncio.create_task(reader.read())
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
    except ConnectionError:
        pass  # answered before all was sent
    try:
        return await asyncio.wait_for(received, 10)
    finally:
        writer.close()


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
