"""A webhook endpoint that keeps what it gets and verifies nothing."""

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator, Sequence


@dataclasses.dataclass
class Received:
    """What came in."""

    url: str = ""
    posts: list[tuple[bytes, str]] = dataclasses.field(default_factory=list)
    """Body and Stripe-Signature."""


@contextlib.asynccontextmanager
async def receiving(statuses: Sequence[int] = ()) -> AsyncIterator[Received]:
    """Run one until the block ends; answers are `statuses`, then 200."""
    received = Received()
    left = list(statuses)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        header = re.search(r"stripe-signature: (.+)\r", head, re.IGNORECASE)
        assert length is not None
        assert header is not None
        body = await reader.readexactly(int(length[1]))
        received.posts.append((body, header[1]))
        status = left.pop(0) if left else 200
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1")
    host, port = server.sockets[0].getsockname()
    received.url = f"http://{host}:{port}/webhook"
    async with server:
        yield received
