"""One Redis server, reached over one connection that is kept up."""

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from hiredis import HiredisError, pack_command

from tollhouse.adapters.redis.access import (
    AccessError,
    RedisAccess,
    Refusals,
    lasting,
    refusal,
)
from tollhouse.adapters.redis.connection import Connection, RedisReplyError, failure
from tollhouse.core.problems import Unavailable

Argument = str | bytes | int
Command = Sequence[Argument]

# hiredis' stub takes the tuple for one of a single element.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", pack_command)

DEFAULT_PORT = 6379
FIRST_BACKOFF_SECONDS = 0.02
LONGEST_BACKOFF_SECONDS = 1.0
HANDSHAKE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a Unix socket's `path`, or else a host and a port."""

    host: str = ""
    port: int = DEFAULT_PORT
    path: str = ""
    database: str = ""

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read `unix:///path` or `redis://host:port/database`, or raise ValueError."""
        place = urlsplit(url)
        if place.scheme == "unix":
            return cls(path=unquote(place.path))
        return cls(
            host=place.hostname or "127.0.0.1",
            port=place.port or DEFAULT_PORT,  # raises ValueError for no number
            # Where a connection begins anyway: SELECT need not be allowed to us.
            database="" if place.path in ("/0", "/") else place.path.strip("/"),
        )

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class Node:
    """One server and the connection to it; names are resolved anew at each connect.

    `changed` is called whenever the connection is there or gone.
    """

    def __init__(
        self,
        address: Address,
        access: RedisAccess,
        refusals: Refusals,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = address
        self.connected_since: float | None = None
        self.certificate_ends: float | None = None
        """When the server's certificate does, Unix seconds; None without TLS."""
        self._refused_for: str | None = None
        self._access = access
        self._refusals = refusals
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep_connected())

    def send(
        self, commands: Sequence[Command], budget_seconds: float
    ) -> "asyncio.Future[list[Any]]":
        """Send commands; the result is as a `Batch`'s, and so the future."""
        connection = self._connection
        if connection is None:
            away: asyncio.Future[list[Any]] = self._loop.create_future()
            away.set_result([self.trouble])
            return away
        packed = b"".join([_pack(tuple(command)) for command in commands])
        return connection.send(packed, len(commands), budget_seconds).future

    @property
    def trouble(self) -> Unavailable:
        """What a call meets while there is no connection."""
        if self._refused_for is None:
            return Unavailable("Redis is away")
        return Unavailable(self._refused_for, transient=False)

    @property
    def nodes(self) -> "Sequence[Node]":
        """Itself: as a cluster of one."""
        return (self,)

    async def wait_connected(self, seconds: float) -> None:
        """Return when there is a connection, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._up.wait(), seconds)

    async def see_certificate(self) -> None:
        """Look at what the server shows who connects now: ours may be months old.

        One that we can't look at changes nothing: who connects says why.
        """
        address = self.address
        if address.path or not self._access.is_tls:
            return
        with contextlib.suppress(OSError, AccessError):  # TimeoutError is an OSError
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                transport, _ = await self._loop.create_connection(
                    asyncio.Protocol,
                    address.host,
                    address.port,
                    ssl=self._access.tls(),
                )
            self._note_certificate(transport)
            transport.abort()

    async def close(self) -> None:
        """Drop the connection; calls under way end with Unavailable."""
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper

    async def _keep_connected(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            connection = Connection(self._note_refusal)
            try:
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    await self._open(connection)
                    await self._shake_hands(connection)
                self._refusals.forget(str(self.address))
                self._refused_for = None
                self._connection = connection
                self.connected_since = time.monotonic()
                self._up.set()
                self._changed()
                await connection.lost.wait()
                if not connection.is_refused:
                    backoff = FIRST_BACKOFF_SECONDS
            except (
                *(OSError, TimeoutError, Unavailable),
                *(HiredisError, AccessError),
            ) as error:
                # Away, starting, or refusing us: whoever calls is told, we try again.
                self._note_trouble(error, connection.lost_by)
            finally:
                self._connection = None
                self.connected_since = None
                self._up.clear()
                connection.abort()
            self._changed()
            # Jitter: the workers of a Redis that comes back must not come in step.
            await asyncio.sleep(backoff * random.uniform(0.5, 1.5))  # noqa: S311
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    async def _open(self, connection: Connection) -> None:
        address = self.address
        if address.path:
            await self._loop.create_unix_connection(lambda: connection, address.path)
        else:
            transport, _ = await self._loop.create_connection(
                lambda: connection,
                address.host,
                address.port,
                ssl=self._access.tls(),
            )
            self._note_certificate(transport)

    def _note_certificate(self, transport: asyncio.BaseTransport) -> None:
        if shown := transport.get_extra_info("peercert"):
            self.certificate_ends = ssl.cert_time_to_seconds(shown["notAfter"])

    async def _shake_hands(self, connection: Connection) -> None:
        greetings: list[tuple[str, ...]] = [("PING",)]
        if self.address.database:
            greetings.insert(0, ("SELECT", self.address.database))
        if credentials := self._access.credentials():
            greetings.insert(0, ("AUTH", *credentials))
        packed = b"".join(map(_pack, greetings))
        batch = connection.send(packed, len(greetings), HANDSHAKE_SECONDS)
        for reply in await batch.future:
            if isinstance(reply, Exception):
                raise failure(reply)

    def _note_trouble(self, error: BaseException, lost_by: Exception | None) -> None:
        """Keep why there is no connection, and say it if that will not pass."""
        causes = map(lasting, (lost_by, error, error.__cause__))
        reason = next((it for it in causes if it is not None), None)
        if reason is not None:
            self._refusals.note(str(self.address), reason)
        elif (
            self._access.is_tls
            and isinstance(error, Unavailable)
            and error.__cause__ is None
        ):
            # Lost while we were greeting. A server that refuses our certificate looks
            # like that too when its alert is overtaken by the end of the connection:
            # what was known holds.
            return
        self._refused_for = reason

    def _note_refusal(self, error: RedisReplyError) -> None:
        # Before that it is trouble, and the first reply says which.
        if self._connection is not None:
            self._refusals.note(str(self.address), refusal(error))
