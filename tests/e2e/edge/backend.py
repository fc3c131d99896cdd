"""A backend that does what the test wrote down, byte by byte and in its own time."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

CHUNKED_SSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Ending(Enum):
    """How a script may leave a connection."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


Step = bytes | float | asyncio.Event | Ending
"""Bytes to write, seconds or an event to wait for, or a way to end."""


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    line: str
    headers: dict[str, str]
    body: bytes
    head: str
    """The first line and all header lines, also those that come twice."""


@dataclass
class Backend:
    """Listens on a port of its own; the header x-test-script names the script."""

    port: int = 0
    tls: ssl.SSLContext | None = None
    usual: Sequence[Step] = ()
    """What it does for a request without that header."""
    received: list[Received] = field(default_factory=list)
    sent: int = 0
    """Steps of bytes written so far by the latest script."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when Envoy closed a connection while a script ran."""
    _scripts: dict[str, Callable[[], Sequence[Step]]] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        """Listen; on the same port as before, if it did."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Let nobody in any more, and those inside go."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def script(self, steps: Sequence[Step] | Callable[[], Sequence[Step]]) -> str:
        """Keep a script; return its name for x-test-script."""
        name = f"script-{len(self._scripts)}"
        self._scripts[name] = steps if callable(steps) else lambda: steps
        return name

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writers.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except asyncio.IncompleteReadError:
            pass
        except ConnectionError:
            self.gone.set()  # a write met the closed connection before a read did
        self._writers.discard(writer)
        writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.strip().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (one.partition(":") for one in fields)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.received.append(Received(line, headers, body, head))
        if self.usual and "x-test-script" not in headers:
            steps = self.usual
        else:
            steps = self._scripts[headers["x-test-script"]]()
        self.sent = 0
        self.gone.clear()
        for step in steps:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                    self.sent += 1
                case Ending.CLOSE:
                    return False
                case Ending.RESET:
                    linger = struct.pack("ii", 1, 0)
                    connection: socket.socket = writer.get_extra_info("socket")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    return False
                case Ending.HANG:
                    await reader.read()
                    self.gone.set()
                    return False
                case asyncio.Event():
                    await step.wait()
                case seconds:
                    await asyncio.sleep(float(seconds))
            if reader.at_eof():
                self.gone.set()
                return False
        return True


def chunk(content: bytes) -> bytes:
    """One HTTP/1.1 chunk."""
    return b"%x\r\n%s\r\n" % (len(content), content)


def chunked(pieces: Sequence[bytes]) -> list[Step]:
    """An event stream sent in these pieces, each in a chunk of its own."""
    return [CHUNKED_SSE, *map(chunk, pieces), b"0\r\n\r\n"]


def answer(
    body: bytes,
    content_type: str = "application/json",
    extra: str = "",
    *,
    status: int = 200,
) -> list[bytes]:
    """Return a whole answer, to be sent at once."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n{extra}"
    return [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body]
