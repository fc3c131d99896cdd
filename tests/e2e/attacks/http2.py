"""HTTP/2 as an attacker writes it, and gRPC on it: h2 without its good manners."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from tests.e2e.attacks import words
from tests.e2e.attacks.rig import Gateway
from tests.e2e.attacks.seen import Reply, Seen
from tollhouse.core.surface import dialect_of

Headers = Iterable[tuple[str | bytes, str | bytes]]


def fields(
    path: str = words.CHAT,
    *headers: tuple[str | bytes, str | bytes],
    method: str = "POST",
    key: bytes | None = words.KEY,
    authority: str = "localhost",
) -> list[tuple[str | bytes, str | bytes]]:
    """The header fields of a request with a good key."""
    listed: list[tuple[str | bytes, str | bytes]] = [
        (":method", method),
        (":scheme", "http"),
        (":authority", authority),
        (":path", path),
    ]
    if key is not None:
        listed.append(("authorization", b"Bearer " + key))
    return [*listed, *headers]


@dataclasses.dataclass
class Wire:
    """One connection that says whatever it is told to."""

    connection: H2Connection
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    seen: dict[int, Seen] = dataclasses.field(default_factory=dict)
    about: Seen = dataclasses.field(default_factory=lambda: Seen([]))
    """What concerns the connection."""

    async def flush(self) -> None:
        """Write what the connection has to say."""
        self.writer.write(self.connection.data_to_send())
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def read(self) -> None:
        """Take in what has come; afterwards `about.has_ended` may be true."""
        try:
            got = await self.reader.read(65_536)
            events = self.connection.receive_data(got) if got else None
        except (ConnectionError, ProtocolError):
            events = None
        if events is None:
            self.about.has_ended = True
            return
        for event in events:
            self._take(event)
        await self.flush()

    async def answered(self, stream: int) -> Seen:
        """Read until this stream has ended."""
        seen = self.seen.setdefault(stream, Seen([]))
        while not (seen.has_ended or self.about.has_ended):
            await self.read()
        seen.settings, seen.window = self.about.settings, self.about.window
        seen.has_ended = True
        return seen

    def _take(self, event: object) -> None:
        match event:
            case RemoteSettingsChanged(changed_settings=changed):
                self.about.settings |= {
                    int(code): it.new_value for code, it in changed.items()
                }
            case WindowUpdated(stream_id=0, delta=int() as delta):
                self.about.window += delta
            case ConnectionTerminated():
                self.about.has_ended = True
            case ResponseReceived(stream_id=int() as stream, headers=list() as headers):
                text = _text(headers)
                status = int(dict(text)[":status"])
                self._of(stream).replies.append(Reply(status, text))
            case TrailersReceived(stream_id=int() as stream, headers=list() as headers):
                self._of(stream).replies[-1].headers += _text(headers)
            case DataReceived(stream_id=int() as stream, data=bytes() as data):
                self._of(stream).replies[-1].body += data
            case StreamEnded(stream_id=int() as stream):
                self._of(stream).has_ended = True
            case StreamReset(stream_id=int() as stream):
                self._of(stream).has_ended = True

    def _of(self, stream: int) -> Seen:
        return self.seen.setdefault(stream, Seen([]))


@contextlib.asynccontextmanager
async def connected(gateway: Gateway, source: str = "127.0.0.1") -> AsyncIterator[Wire]:
    """Open a connection; nothing that is sent on it is checked or put right."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway.port, local_addr=(source, 0)
    )
    config = H2Configuration(
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        header_encoding=None,
    )
    wire = Wire(H2Connection(config), reader, writer)
    wire.connection.initiate_connection()
    try:
        yield wire
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@dataclasses.dataclass(frozen=True)
class Http2:
    """One request, with its trailers if it has any; `ends` when it is whole."""

    fields: list[tuple[str | bytes, str | bytes]]
    body: bytes = words.BODY
    trailers: list[tuple[str | bytes, str | bytes]] | None = None
    ends: bool = True

    async def __call__(self, gateway: Gateway) -> Seen:
        async with connected(gateway) as wire:
            listed = [
                (_bytes(name), gateway.filled(_bytes(value)))
                for name, value in self.fields
            ]
            say = wire.connection
            has_more = bool(self.body) or self.trailers is not None or not self.ends
            say.send_headers(1, listed, end_stream=not has_more)
            await wire.flush()
            if self.body:
                await self._send_body(wire)
            if self.trailers is not None:
                said = [
                    (_bytes(name), gateway.filled(_bytes(value)))
                    for name, value in self.trailers
                ]
                with contextlib.suppress(ProtocolError):  # reset meanwhile
                    say.send_headers(1, said, end_stream=True)
            await wire.flush()
            seen = await wire.answered(1)
            seen.dialect = dialect_of(dict(listed).get(b":path", b"").decode("latin-1"))
            return seen

    async def _send_body(self, wire: Wire) -> None:
        left = self.body
        while left and not wire.seen.get(1, wire.about).has_ended:
            try:
                room = min(
                    wire.connection.local_flow_control_window(1),
                    wire.connection.max_outbound_frame_size,
                )
                if room:
                    now, left = left[:room], left[room:]
                    is_last = not left and self.trailers is None and self.ends
                    wire.connection.send_data(1, now, end_stream=is_last)
                    await wire.flush()
                else:
                    await wire.read()
            except ProtocolError:
                return  # the stream was reset


def ask2(
    path: str = words.CHAT, *headers: tuple[str | bytes, str | bytes], **more: object
) -> Http2:
    """Send one request; `body`, `trailers` and `ends` as in `Http2`."""
    own = {name: more.pop(name) for name in ("body", "trailers", "ends") & more.keys()}
    return Http2(fields(path, *headers, **more), **own)  # type: ignore[arg-type]


def frame(message: bytes, *, flag: int = 0) -> bytes:
    """One gRPC message; flag 1 says that it is compressed."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def call(
    path: str,
    *headers: tuple[str | bytes, str | bytes],
    messages: Iterable[bytes] = (frame(b""),),
    content_type: str = "application/grpc",
    **more: object,
) -> Http2:
    """Make a gRPC call with a good key."""
    own = (("content-type", content_type), ("te", "trailers"), *headers)
    return ask2(path, *own, body=b"".join(messages), **more)


def _text(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(key.decode(), value.decode("latin-1")) for key, value in headers]


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text
