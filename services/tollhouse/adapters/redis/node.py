"""One Redis server, reached over one connection that is kept up."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from hiredis import HiredisError, pack_command

from tollhouse.adapters.redis.connection import Connection, failure
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
        if place.password is not None:
            raise ValueError("a Redis URL must not hold a password")
        if place.scheme == "unix":
            return cls(path=unquote(place.path))
        return cls(
            host=place.hostname or "127.0.0.1",
            port=place.port or DEFAULT_PORT,  # raises ValueError for no number
            database=place.path.strip("/"),
        )


class Node:
    """One server and the connection to it; names are resolved anew at each connect.

    `credentials` are what AUTH takes, none without a password. `changed` is called
    whenever the connection is there or gone.
    """

    def __init__(
        self,
        address: Address,
        credentials: Sequence[str],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = address
        self.connected_since: float | None = None
        self._credentials = credentials
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
            away.set_result([Unavailable("Redis is away")])
            return away
        packed = b"".join([_pack(tuple(command)) for command in commands])
        return connection.send(packed, len(commands), budget_seconds).future

    @property
    def nodes(self) -> "Sequence[Node]":
        """Itself: as a cluster of one."""
        return (self,)

    async def wait_connected(self, seconds: float) -> None:
        """Return when there is a connection, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._up.wait(), seconds)

    async def close(self) -> None:
        """Drop the connection; calls under way end with Unavailable."""
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper

    async def _keep_connected(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            connection = Connection()
            try:
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    await self._open(connection)
                    await self._shake_hands(connection)
                self._connection = connection
                self.connected_since = time.monotonic()
                self._up.set()
                self._changed()
                await connection.lost.wait()
                if not connection.is_refused:
                    backoff = FIRST_BACKOFF_SECONDS
            except (OSError, TimeoutError, Unavailable, HiredisError):
                # Away, starting, or refusing us: whoever calls is told, we try again.
                pass
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
            await self._loop.create_connection(
                lambda: connection, address.host, address.port
            )

    async def _shake_hands(self, connection: Connection) -> None:
        greetings: list[tuple[str, ...]] = [("PING",)]
        if self.address.database:
            greetings.insert(0, ("SELECT", self.address.database))
        if self._credentials:
            greetings.insert(0, ("AUTH", *self._credentials))
        packed = b"".join(map(_pack, greetings))
        batch = connection.send(packed, len(greetings), HANDSHAKE_SECONDS)
        for reply in await batch.future:
            if isinstance(reply, Exception):
                raise failure(reply)
