"""HTTP/1.1, one request after another on a connection that is kept."""

import asyncio

from tests.rollout.connection import Answer, Cut, NotTaken
from tollhouse.adapters.address import Address

_END = b"\r\n"


class Http1:
    """One connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        headers: dict[str, str],
    ) -> None:
        self._reader, self._writer = reader, writer
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        self._head = "POST /v1/chat/completions HTTP/1.1\r\n" + "".join(lines)
        self._is_asked_to_leave = False
        self._answers = 0

    @classmethod
    async def open(cls, address: Address, headers: dict[str, str]) -> "Http1":
        """Connect. Raises OSError."""
        return cls(*await address.connect(), {"host": str(address), **headers})

    @property
    def is_usable(self) -> bool:
        """Whether the server neither closed it nor said that it would."""
        return not (self._is_asked_to_leave or self._reader.at_eof())

    async def ask(self, body: bytes) -> Answer:
        """Send a chat; read the answer. Raises Cut, NotTaken."""
        head = f"{self._head}content-length: {len(body)}\r\n\r\n"
        try:
            self._writer.write(head.encode() + body)
            first = await self._reader.readuntil(_END)
        except (OSError, asyncio.IncompleteReadError) as error:
            kind = NotTaken if self._answers else Cut
            raise kind(f"no answer: {error!r}") from error
        try:
            answer = await self._read(first)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Cut(f"half an answer: {error!r}") from error
        self._answers += 1
        return answer

    async def _read(self, first: bytes) -> Answer:
        text = (await self._reader.readuntil(_END + _END)).decode("latin-1").lower()
        headers = dict(line.split(": ", 1) for line in text.split("\r\n") if line)
        self._is_asked_to_leave = headers.get("connection") == "close"
        answer = Answer(int(first.split()[1]), headers.get("x-tollhouse-exchange", ""))
        if "content-length" in headers:
            length = int(headers["content-length"])
            answer.body += await self._reader.readexactly(length)
            return answer
        while length := int(await self._reader.readuntil(_END), 16):
            answer.body += (await self._reader.readexactly(length + 2))[:length]
        await self._reader.readuntil(_END)
        return answer

    def close(self) -> None:
        """End it."""
        self._writer.transport.abort()
