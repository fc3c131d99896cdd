"""What HTTP/2 lets one connection do to all others; other clients are served."""

import contextlib

from h2.exceptions import ProtocolError

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.http2 import ask2, connected, fields
from tests.e2e.attacks.rig import Gateway
from tests.e2e.attacks.row import NO_BYTE, Expect, Row, refused, rows
from tests.e2e.attacks.seen import Seen

_STREAMS = 100
_CONTINUATION = b"\0\x40\0\x09\0\0\0\0\x01" + b"\x40\x01x\x7f\x81\x7f" + b"a" * 16_378
"""One CONTINUATION frame of 16 KiB, with no end to its headers."""


async def _open_streams(gateway: Gateway) -> Seen:
    """Ask what is allowed."""
    async with connected(gateway) as wire:
        await wire.flush()
        while not wire.about.settings or not wire.about.window:
            await wire.read()
        return Seen([], True, wire.about.settings, wire.about.window)


async def _rapid_reset(gateway: Gateway) -> Seen:
    """Open 300 streams, and reset each at once."""
    async with connected(gateway) as wire:
        for stream in range(1, 601, 2):
            wire.connection.send_headers(stream, fields())
            wire.connection.reset_stream(stream)
        await wire.flush()
        wire.connection.ping(b"are-you?")
        await wire.flush()
        await wire.read()
        return Seen([], has_ended=True)


async def _continuations(gateway: Gateway) -> Seen:
    """Send headers that do not end, 4 MiB of them."""
    async with connected(gateway) as wire:
        await wire.flush()
        await wire.read()
        wire.writer.write(b"\0\0\x01\x01\0\0\0\0\x01\x82")
        with contextlib.suppress(ConnectionError):
            for _ in range(256):
                wire.writer.write(_CONTINUATION)
                await wire.writer.drain()
        return await wire.answered(1)


async def _empty_frames(gateway: Gateway) -> Seen:
    """Send 20,000 empty data frames on a stream that does not end."""
    async with connected(gateway) as wire:
        wire.connection.send_headers(1, fields())
        await wire.flush()
        wire.writer.write(b"\0\0\0\0\0\0\0\0\x01" * 20_000)
        return await wire.answered(1)


async def _pings(gateway: Gateway) -> Seen:
    """Send 20,000 pings, and read none of their answers meanwhile."""
    async with connected(gateway) as wire:
        await wire.flush()
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                wire.writer.write(b"\0\0\x08\x06\0\0\0\0\0evilping" * 100)
                await wire.writer.drain()
        return Seen([], has_ended=True)


async def _settings(gateway: Gateway) -> Seen:
    """Send 20,000 settings frames."""
    async with connected(gateway) as wire:
        await wire.flush()
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                wire.writer.write(b"\0\0\0\x04\0\0\0\0\0" * 100)
                await wire.writer.drain()
        return Seen([], has_ended=True)


async def _deaf(gateway: Gateway) -> Seen:
    """Open a connection and never answer its pings."""
    async with connected(gateway) as wire:
        await wire.flush()
        while await wire.reader.read(65_536):
            pass
        return Seen([], has_ended=True)


async def _wide_headers(gateway: Gateway) -> Seen:
    """Send one header that HPACK makes small, 4,000 times: a bomb."""
    async with connected(gateway) as wire:
        listed = [*fields(), *[("x-a", "a" * 1_000)] * 4_000]
        with contextlib.suppress(ProtocolError):
            wire.connection.send_headers(1, listed, end_stream=True)
        await wire.flush()
        return await wire.answered(1)


_MANY = refused(431, NO_BYTE, code="headers_too_large")
_ENDED = Expect(frozenset({NO_BYTE}))

ROWS = [
    *rows(
        "flood",
        [
            (
                1,
                "streams without end on one connection",
                "max_concurrent_streams",
                _open_streams,
                Expect(
                    frozenset({NO_BYTE}),
                    fits=lambda seen: seen.settings.get(3) == _STREAMS,
                ),
            ),
            (
                2,
                "a window of a stream to fill memory with",
                "initial_stream_window_size",
                _open_streams,
                Expect(
                    frozenset({NO_BYTE}),
                    fits=lambda seen: seen.settings.get(4) == 65_536,
                ),
            ),
            (
                3,
                "a window of the connection to fill memory with",
                "initial_connection_window_size",
                _open_streams,
                Expect(
                    frozenset({NO_BYTE}),
                    fits=lambda seen: seen.window + 65_535 <= 1 << 20,
                ),
            ),
            (
                4,
                "300 streams, each reset at once",
                "Envoy's limits on resets",
                _rapid_reset,
                _ENDED,
            ),
            (
                5,
                "headers that do not end",
                "max_request_headers_kb",
                _continuations,
                _MANY,
            ),
            (
                6,
                "20,000 empty frames",
                "Envoy's limits on empty frames",
                _empty_frames,
                refused(400, 408, NO_BYTE),
            ),
            (7, "20,000 pings", "Envoy's limits on control frames", _pings, _ENDED),
            (
                8,
                "20,000 settings",
                "Envoy's limits on control frames",
                _settings,
                _ENDED,
            ),
            (
                9,
                "headers of 4 MB in 30 KB (HPACK)",
                "max_request_headers_kb",
                _wide_headers,
                _MANY,
            ),
            (
                10,
                "200 headers",
                "max_headers_count",
                ask(words.CHAT, *(f"x-{it}: 1" for it in range(200))),
                refused(431, code="headers_too_large"),
            ),
            (
                11,
                "200 headers on HTTP/2",
                "max_headers_count",
                ask2(words.CHAT, *((f"x-{it}", "1") for it in range(200))),
                _MANY,
            ),
            (
                12,
                "headers of 40 KB",
                "max_request_headers_kb",
                ask(words.CHAT, "x-a: " + "a" * 40_000),
                refused(431, code="headers_too_large"),
            ),
            (
                13,
                "a cookie in 1,000 pieces on HTTP/2",
                "max_headers_count",
                ask2(words.CHAT, *([("cookie", "evil=1")] * 1_000)),
                _MANY,
            ),
        ],
    ),
    Row(
        "flood-20",
        "a connection whose client has gone",
        "connection_keepalive",
        _deaf,
        _ENDED,
        variant="hurried",
    ),
]
