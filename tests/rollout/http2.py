"""HTTP/2: many requests on one connection, which ends as RFC 9113 6.8 says."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError

from tests.rollout.connection import Answer, Cut, NotTaken
from tollhouse.adapters.address import Address

_FRAME_HEAD = 9
_GOAWAY = 7
_REFUSED_STREAM = 7


@dataclass(slots=True)
class _Stream:
    """A request under way."""

    answer: Answer | None = None
    ended: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)


class Http2:
    """One connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        headers: dict[str, str],
    ) -> None:
        self._reader, self._writer = reader, writer
        self._headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/v1/chat/completions"),
            *headers.items(),
        ]
        self._h2 = H2Connection(H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self._streams: dict[int, _Stream] = {}
        self._is_asked_to_leave = False
        self._flush()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, address: Address, headers: dict[str, str]) -> "Http2":
        """Connect. Raises OSError."""
        reader, writer = await address.connect()
        return cls(reader, writer, {":authority": str(address), **headers})

    @property
    def is_usable(self) -> bool:
        """Whether the server neither closed it nor said that it would."""
        return not (self._is_asked_to_leave or self._reading.done())

    async def ask(self, body: bytes) -> Answer:
        """Send a chat; read the answer. Raises Cut, NotTaken."""
        number = self._h2.get_next_available_stream_id()
        stream = self._streams[number] = _Stream()
        length = ("content-length", str(len(body)))
        self._h2.send_headers(number, [*self._headers, length])
        self._h2.send_data(number, body, end_stream=True)
        self._flush()
        try:
            await stream.ended
        finally:
            del self._streams[number]
            if self._is_asked_to_leave and not self._streams:
                self.close()
        if stream.answer is None:
            raise Cut("a stream without an answer")
        return stream.answer

    def close(self) -> None:
        """End it."""
        self._reading.cancel()
        self._writer.transport.abort()

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(_FRAME_HEAD)
                content = await self._reader.readexactly(int.from_bytes(head[:3]))
                if head[3] == _GOAWAY:
                    self._leave(int.from_bytes(content[:4]))
                else:
                    # h2 takes GOAWAY for the end of all streams, so it gets none.
                    self._take(self._h2.receive_data(head + content))
        except (OSError, asyncio.IncompleteReadError, ProtocolError) as error:
            for stream in self._streams.values():
                stream.fail(Cut(f"connection lost: {error!r}"))

    def _leave(self, last: int) -> None:
        self._is_asked_to_leave = True
        for number, stream in self._streams.items():
            if number > last:
                stream.fail(NotTaken("behind GOAWAY"))
        if not self._streams:
            self.close()

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            stream = self._streams.get(getattr(event, "stream_id", None) or 0)
            match event:
                case DataReceived():
                    length = event.flow_controlled_length or 0
                    self._h2.acknowledge_received_data(length, event.stream_id or 0)
            if stream is None:
                continue
            match event:
                case ResponseReceived():
                    headers = dict(event.headers or ())
                    stream.answer = Answer(
                        int(headers[b":status"]),
                        headers.get(b"x-tollhouse-exchange", b"").decode(),
                    )
                case DataReceived() if stream.answer is not None:
                    stream.answer.body += event.data or b""
                case StreamEnded() if not stream.ended.done():
                    stream.ended.set_result(None)
                case StreamReset():
                    is_refused = event.error_code == _REFUSED_STREAM
                    kind = NotTaken if is_refused else Cut
                    stream.fail(kind(f"reset: {event.error_code}"))
        self._flush()

    def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
