"""HTTP/1 as an attacker writes it: bytes."""

import asyncio
import contextlib
import dataclasses
import posixpath
import socket
import time
from collections.abc import Iterable

from tests.e2e.attacks import words
from tests.e2e.attacks.rig import Gateway
from tests.e2e.attacks.seen import Reply, Seen
from tollhouse.core.surface import dialect_of

_PAUSE_SECONDS = 0.2
"""Between the pieces of who reads late: longer than an early answer takes."""


def request(
    path: str | bytes = words.CHAT,
    *headers: str | bytes,
    method: str = "POST",
    body: bytes = words.BODY,
    key: bytes | None = words.KEY,
    host: str | None = "localhost",
    version: str = "HTTP/1.1",
    length: bool = True,
    close: bool = True,
) -> bytes:
    """A request with a good key, for all that is not said otherwise."""
    lines = [f"{method} ".encode() + _bytes(path) + f" {version}".encode()]
    if host is not None:
        lines.append(f"host: {host}".encode())
    if key is not None:
        lines.append(b"authorization: Bearer " + key)
    if close:
        lines.append(b"connection: close")
    lines.append(b"content-type: application/json")
    lines += map(_bytes, headers)
    if length:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    """A body in chunks, with trailers as they stand."""
    framed = b"".join(b"%x\r\n%s\r\n" % (len(it), it) for it in chunks)
    return framed + b"0\r\n" + trailers + b"\r\n"


@dataclasses.dataclass(frozen=True)
class Http1:
    """Bytes on one connection; `linger` is how long to look for a further answer."""

    pieces: tuple[bytes, ...]
    linger: float = 0.0
    to_admin: bool = False
    reads_late: bool = False
    """Sends all of it before it reads, as most SDKs do."""

    async def __call__(self, gateway: Gateway) -> Seen:
        seen = await (self._read_late if self.reads_late else self._talk)(gateway)
        _, _, rest = self.pieces[0].decode("latin-1").partition(" ")
        # As Envoy normalizes it; to it `..;` is `..` with a parameter.
        path = posixpath.normpath(rest.partition(" ")[0].replace("..;", ".."))
        seen.dialect = dialect_of(path)
        return seen

    async def _talk(self, gateway: Gateway) -> Seen:
        port = gateway.admin if self.to_admin else gateway.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        seen = Seen([])
        reading = asyncio.create_task(self._read(reader, seen))
        try:
            with contextlib.suppress(ConnectionError):
                for piece in self.pieces:
                    writer.write(gateway.filled(piece))
                    await writer.drain()
            await reading
        finally:
            reading.cancel()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        return seen

    async def _read_late(self, gateway: Gateway) -> Seen:
        pieces = [gateway.filled(it) for it in self.pieces]
        reader, seen = asyncio.StreamReader(), Seen([])
        reader.feed_data(await asyncio.to_thread(_exchange, gateway.port, pieces))
        reader.feed_eof()
        await self._read(reader, seen)
        return seen

    async def _read(self, reader: asyncio.StreamReader, seen: Seen) -> None:
        is_head = self.pieces[0].startswith(b"HEAD ")
        try:
            reply = await _reply(reader, is_head=is_head)
            seen.replies.append(reply)
            while self.linger and reply.header("connection") != "close":
                async with asyncio.timeout(self.linger or None):
                    reply = await _reply(reader, is_head=is_head)
                    seen.replies.append(reply)
        except (ConnectionError, asyncio.IncompleteReadError):
            seen.has_ended = True
        except TimeoutError:
            pass


def send(*pieces: bytes, linger: float = 0.0) -> Http1:
    """Send these bytes, one after the other."""
    return Http1(pieces, linger)


def ask(path: str | bytes = words.CHAT, *headers: str | bytes, **more: object) -> Http1:
    """Send one `request`."""
    return Http1((request(path, *headers, **more),))  # type: ignore[arg-type]


def ask_admin(method: str, path: str) -> Http1:
    """Send one request to Envoy's admin."""
    text = request(path, method=method, body=b"", key=None)
    return Http1((text,), to_admin=True)


def _exchange(port: int, pieces: Iterable[bytes]) -> bytes:
    """Send everything, then read; nothing, where the connection was reset first."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(_PAUSE_SECONDS)
            return connection.recv(65_536)
        except ConnectionError:
            return b""


async def _reply(reader: asyncio.StreamReader, *, is_head: bool) -> Reply:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.strip().split("\r\n")
        status = int(line.split(" ")[1])
        if status >= 200 or status == 101:
            break
    reply = Reply(status, list(_fields(fields)), is_bodiless=is_head)
    length = reply.header("content-length")
    if is_head or status == 101:
        pass
    elif length is not None:
        reply.body = await reader.readexactly(int(length))
    elif reply.header("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            reply.body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    return reply


def _fields(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition(":")
        yield name.lower(), value.strip()


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text
