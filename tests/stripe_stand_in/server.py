"""The stand-in on loopback: ASGI on uvicorn, with connections that can be reset.

It is our reading of Stripe's documents and was never compared with the real Stripe.
"""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.stripe_stand_in.control import PREFIX, control
from tests.stripe_stand_in.pipeline import Answer, Dropped, Pipeline, Raw
from tests.stripe_stand_in.settings import Settings
from tests.stripe_stand_in.stand_in import StandIn

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() sends RST


class _Protocol(HttpToolsProtocol):
    """Tells the application which connection a call came by."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Application:
    """HTTP in, HTTP out; what to answer is the pipeline's business."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._pipeline = Pipeline(stand_in)

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Any, send: Any
    ) -> None:
        raw = Raw(
            scope["method"],
            scope["path"],
            scope["query_string"].decode(),
            {name.decode(): value.decode() for name, value in scope["headers"]},
            await _body(receive),
        )
        try:
            if raw.path.startswith(PREFIX):
                answer = control(self._stand_in, raw)
            else:
                answer = await self._pipeline.answer(raw)
        except Dropped:
            await _reset(scope["state"]["transport"], receive)
            return
        await _send(answer, send)


@contextlib.asynccontextmanager
async def running_stand_in(
    state: Path | None = None,
    *,
    port: int = 0,
    settings: Settings | None = None,
    seed: int | None = None,
) -> AsyncIterator[StandIn]:
    """Run one in this event loop until the block ends.

    With a `state` file it goes on from what an earlier one left there.
    """
    stand_in = StandIn(state, settings)
    if seed is not None:
        stand_in.settings.seed = seed
    config = uvicorn.Config(
        _Application(stand_in),
        http=_Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    with socket.create_server(("127.0.0.1", port), backlog=256) as listener:
        stand_in.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield stand_in
        finally:
            stand_in.closing.set()
            server.should_exit = True
            await serving
            await stand_in.reports.close()
            stand_in.journal.close()


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def _reset(transport: asyncio.Transport, receive: Any) -> None:
    """Reset the connection, as a crashed server or a lost route would."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
    await receive()  # http.disconnect: from here on uvicorn expects no answer


async def _send(answer: Answer, send: Any) -> None:
    body = json.dumps(answer.body).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **answer.headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [
                (name.lower().encode(), value.encode())
                for name, value in headers.items()
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
