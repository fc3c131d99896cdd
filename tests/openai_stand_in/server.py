"""The stand-ins' HTTP: one server that is whichever the model of a request names."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.openai_stand_in.answers import Asked, events, is_piece, whole
from tests.openai_stand_in.profiles import CANARY, FAULTS, PROFILES, RAW, Body

PATHS = {
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
}
KNOWN_TO_TRTLLM = {
    *("model", "messages", "prompt", "input", "stream", "stream_options", "n", "user"),
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "temperature"),
}
"""Those of its fields that the tests send."""


@dataclass
class Received:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Body


@dataclass
class StandIn:
    """Listens on a port of its own.

    `key` is the bearer key it asks for, None: it asks for none. `pause` is the time
    between two events of a stream, in seconds.
    """

    key: str | None = None
    pause: float = 0.01
    port: int = 0
    is_healthy: bool = True
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, started: threading.Event) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        async with server:
            await server.serve_forever()

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head.strip().split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (one.partition(":") for one in fields)
                }
                length = int(headers.get("content-length", "0"))
                content = await reader.readexactly(length)
                method, target, _ = line.split()
                path = target.partition("?")[0]
                answer = self._answer(method, path, headers, content)
                match answer:
                    case Asked() if answer.body.get("stream"):
                        await self._stream(reader, writer, answer)
                    case Asked():
                        await reader.read()  # until who asked has left
                        break
                    case bytes():
                        writer.write(answer)
                        break
                    case status, body:
                        _send(writer, status, body)
                await writer.drain()
        writer.close()

    def _answer(
        self, method: str, path: str, headers: dict[str, str], content: bytes
    ) -> Asked | bytes | tuple[int, Body]:
        """What to stream or never to answer, or to send at once.

        Bytes are the last of a connection.
        """
        if method == "GET":
            status = 200 if self.is_healthy else 503
            known = path in ("/health", "/health/ready", "/v1/health/ready")
            return (status if known else 404), {}
        body = json.loads(content)
        self.received.append(Received(path, headers, body))
        profile = PROFILES.get(body["model"])
        if profile is None or path not in PATHS:
            return 404, {"error": {"message": f"unknown {CANARY}"}}
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return 401, profile.error(401, f"key? {CANARY}", None)
        # Its class of responses lets further fields pass.
        forbids = profile.forbids and path != "/v1/responses"
        if forbids and (odd := body.keys() - KNOWN_TO_TRTLLM):
            text = f"Extra inputs are not permitted: {odd} {CANARY}"
            return 400, profile.error(400, text, None)
        prompt = content.decode()
        for word, fault in FAULTS.items():
            if f'"{word}"' in prompt:
                return fault(profile)
        for word, answer in RAW.items():
            if f'"{word}"' in prompt:
                return answer
        asked = Asked(path, body, profile)
        takes_time = body.get("stream") or asked.hold_after is not None
        return asked if takes_time else (200, whole(asked))

    async def _stream(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: Asked,
    ) -> None:
        pieces = 0
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for kind, data in events(asked):
            if pieces == asked.hold_after:
                await writer.drain()
                await reader.read()  # nothing more, until who asked has left
                return
            pieces += is_piece(data)
            text = data if isinstance(data, str) else json.dumps(data)
            event = (f"event: {kind}\n" if kind else "") + f"data: {text}\n\n"
            encoded = event.encode()
            writer.write(b"%x\r\n%s\r\n" % (len(encoded), encoded))
            await writer.drain()
            await asyncio.sleep(self.pause)
        writer.write(b"0\r\n\r\n")


def _send(writer: asyncio.StreamWriter, status: int, body: Body) -> None:
    content = json.dumps(body).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        "server": "uvicorn",
        "x-engine": CANARY if status >= 300 else "",
        "retry-after": "7",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + content)


@contextlib.contextmanager
def running_stand_in(**about: Any) -> Iterator[StandIn]:
    """Run one on an event loop of its own until the block ends."""
    stand_in, started = StandIn(**about), threading.Event()
    stop = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        server = asyncio.create_task(stand_in.serve(started))
        await stop.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(server, *others, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        assert started.wait(30)
        yield stand_in
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
