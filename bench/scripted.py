"""A backend that speaks OpenAI's API and answers as its prompt says.

The last line of a chat's last message is JSON: `input`, `cached` and `output` are the
tokens it counts, `seconds` how long the answer takes. It keeps to max_tokens. Text has
one letter per token.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_EVENT_SECONDS = 0.05
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_JSON = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
)


@dataclass
class Generated:
    """What was done for one request.

    `output` are the tokens that were generated so far. `is_whole`: all of the answer
    was handed to the connection; whether somebody read it is not known here.
    """

    exchange: str
    """The gateway's id of it; empty when none was told."""
    model: str
    script: Mapping[str, Any]
    """The prompt's last line."""
    output: int = 0
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class _Script:
    """One answer."""

    input: int
    cached: int
    output: int
    seconds: float
    is_stream: bool
    generated: Generated = field(repr=False)

    @classmethod
    def of(cls, exchange: str, body: dict[str, Any]) -> "_Script":
        said = json.loads(body["messages"][-1]["content"].rpartition("\n")[2])
        cap = body.get("max_completion_tokens", body.get("max_tokens"))
        return cls(
            input=said["input"],
            cached=said.get("cached", 0),
            output=said["output"] if cap is None else min(said["output"], cap),
            seconds=said["seconds"],
            is_stream=body.get("stream", False),
            generated=Generated(exchange, body.get("model", ""), said),
        )

    def events(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield when each event is due, in seconds from the request, and the event."""
        sent, due = 0, min(_EVENT_SECONDS, self.seconds)
        while due < self.seconds:
            tokens = int(self.output * due / self.seconds)
            yield due, self._event("x" * (tokens - sent), tokens)
            sent, due = tokens, due + _EVENT_SECONDS
        yield self.seconds, self._event("x" * (self.output - sent), self.output)
        yield self.seconds, self._event(None, self.output)

    def completion(self) -> dict[str, Any]:
        """The whole answer."""
        message = {"role": "assistant", "content": "x" * self.output}
        return {
            "id": "scripted",
            "object": "chat.completion",
            "created": 0,
            "model": "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": self._usage(self.output),
        }

    def _event(self, text: str | None, tokens: int) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return {
            "id": "scripted",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "scripted",
            "choices": [] if text is None else [choice],
            "usage": self._usage(tokens),
        }

    def _usage(self, tokens: int) -> dict[str, Any]:
        return {
            "prompt_tokens": self.input,
            "completion_tokens": tokens,
            "total_tokens": self.input + tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@contextlib.asynccontextmanager
async def running_scripted(
    listening: socket.socket, told: Callable[[Generated], None] = lambda _: None
) -> AsyncIterator[None]:
    """Answer on a bound socket until the block ends; `told` of each answer's end."""
    connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_serve(reader, writer, told))
        connections[writer] = task
        task.add_done_callback(lambda _: connections.pop(writer))
        await task

    server = await asyncio.start_server(serve, sock=listening, backlog=1024)
    try:
        yield
    finally:
        server.close()
        tasks = list(connections.values())
        for writer in connections:
            writer.transport.abort()
        await asyncio.gather(*tasks)


async def _serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    told: Callable[[Generated], None],
) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(_header(head, b"content-length"))
            body = json.loads(await reader.readexactly(length))
            exchange = _header(head, b"x-tollhouse-exchange").decode()
            script = _Script.of(exchange, body)
            try:
                await (_stream if script.is_stream else _whole)(writer, script)
            finally:
                told(script.generated)
    writer.close()


def _header(head: bytes, name: bytes) -> bytes:
    return head.partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip()


async def _stream(writer: asyncio.StreamWriter, script: _Script) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    writer.write(_STREAM)
    for due, event in script.events():
        await asyncio.sleep(began + due - clock())
        script.generated.output = event["usage"]["completion_tokens"]
        _write(writer, b"data: " + json.dumps(event).encode() + b"\n\n")
        await writer.drain()
    _write(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    script.generated.is_whole = True


async def _whole(writer: asyncio.StreamWriter, script: _Script) -> None:
    await asyncio.sleep(script.seconds)
    content = json.dumps(script.completion()).encode()
    script.generated.output = script.output
    writer.write(_JSON % len(content) + content)
    await writer.drain()
    script.generated.is_whole = True


def _write(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(content), content))
