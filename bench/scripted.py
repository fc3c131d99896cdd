"""A backend that speaks OpenAI's API and answers as its prompt says.

The last line of a chat's last message is JSON: `input` and `output` are the tokens it
counts, `seconds` how long the answer takes. It keeps to max_tokens.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

_EVENT_SECONDS = 0.05
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True)
class _Script:
    """One answer."""

    input: int
    output: int
    seconds: float

    @classmethod
    def of(cls, body: dict[str, Any]) -> "_Script":
        said = json.loads(body["messages"][-1]["content"].rpartition("\n")[2])
        cap = body.get("max_completion_tokens", body.get("max_tokens"))
        output = said["output"] if cap is None else min(said["output"], cap)
        return cls(said["input"], output, said["seconds"])

    def events(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield when each event is due, in seconds from the request, and the event."""
        sent, due = 0, min(_EVENT_SECONDS, self.seconds)
        while due < self.seconds:
            tokens = int(self.output * due / self.seconds)
            yield due, self._event("x" * (tokens - sent), tokens)
            sent, due = tokens, due + _EVENT_SECONDS
        yield self.seconds, self._event("x" * (self.output - sent), self.output)
        yield self.seconds, self._event(None, self.output)

    def _event(self, text: str | None, tokens: int) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return {
            "id": "scripted",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "scripted",
            "choices": [] if text is None else [choice],
            "usage": {
                "prompt_tokens": self.input,
                "completion_tokens": tokens,
                "total_tokens": self.input + tokens,
            },
        }


@contextlib.asynccontextmanager
async def running_scripted(listening: socket.socket) -> AsyncIterator[None]:
    """Answer on a bound socket until the block ends."""
    connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[writer] = asyncio.ensure_future(_serve(reader, writer))
        await connections[writer]

    server = await asyncio.start_server(serve, sock=listening, backlog=1024)
    try:
        yield
    finally:
        server.close()
        for writer in connections:
            writer.transport.abort()
        await asyncio.gather(*connections.values())


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(maxsplit=1)[0])
            body = json.loads(await reader.readexactly(length))
            await _answer(writer, _Script.of(body))
    writer.close()


async def _answer(writer: asyncio.StreamWriter, script: _Script) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    writer.write(_HEAD)
    for due, event in script.events():
        await asyncio.sleep(began + due - clock())
        _write(writer, b"data: " + json.dumps(event).encode() + b"\n\n")
        await writer.drain()
    _write(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def _write(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(content), content))
