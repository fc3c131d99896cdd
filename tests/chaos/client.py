"""A client that costs little: one connection, one request at a time, no streams."""

import asyncio
import json
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that was read whole; status 0: none came."""

    status: int
    exchange: str
    seconds: float


class Connection:
    """A connection of one API key, opened again when it was lost."""

    def __init__(self, base_url: str, key: str) -> None:
        place = urlsplit(base_url)
        self._host, self._port = place.hostname or "", place.port or 0
        self._head = (
            f"POST {place.path}/chat/completions HTTP/1.1\r\nhost: {place.netloc}\r\n"
            f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        )
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, model: str, prompt: str) -> Answered:
        """Send one chat and read its answer."""
        message = {"role": "user", "content": prompt}
        body = json.dumps({"model": model, "messages": [message]}).encode()
        began = time.monotonic()
        try:
            status, exchange = await self._ask(body)
        except (OSError, asyncio.IncompleteReadError):
            self._drop()
            status, exchange = 0, ""
        return Answered(status, exchange, time.monotonic() - began)

    async def _ask(self, body: bytes) -> tuple[int, str]:
        if self._open is None:
            self._open = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._open
        head = f"{self._head}content-length: {len(body)}\r\n\r\n".encode()
        writer.write(head + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers.get("x-tollhouse-exchange", "")

    def _drop(self) -> None:
        if self._open is not None:
            self._open[1].transport.abort()
            self._open = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._drop()
