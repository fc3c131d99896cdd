"""A small asyncio Redis client: one connection, automatic pipelining, a budget a call.

Replies come in the order of the commands (RESP, https://redis.io/docs/latest/develop/
reference/protocol-spec/), so whoever gave up keeps its place in the queue and its late
reply is dropped there. A call that raised Unavailable may still be applied by Redis:
whoever repeats it must do so under the same id.
"""

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import unquote, urlsplit

from hiredis import HiredisError, pack_command

from tollhouse.adapters.redis.connection import (
    Connection,
    RedisReplyError,
    failure,
)
from tollhouse.core.problems import Unavailable

__all__ = [
    "Argument",
    "Redis",
    "RedisReplyError",
    "Reply",
    "Run",
    "Script",
    "run_all",
]

Argument = str | bytes | int
Reply = Any
"""bytes, int, None, or a list of these."""

# hiredis' stub takes the tuple for one of a single element.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", pack_command)

FIRST_BACKOFF_SECONDS = 0.02
LONGEST_BACKOFF_SECONDS = 1.0
HANDSHAKE_SECONDS = 1.0
CONNECT_WAIT_SECONDS = 0.25
"""What `connect` waits for the first connection before it returns without one."""


class Redis:
    """One Redis, reached over one connection that is kept up.

    Not for blocking commands (BLPOP, XREAD BLOCK): they would hold up everyone's.
    """

    def __init__(
        self, url: str, *, budget_seconds: float, username: str | None, password: str
    ) -> None:
        self._place = urlsplit(url)
        if self._place.scheme not in ("unix", "redis"):
            raise ValueError("a Redis URL starts with unix:// or redis://")
        if self._place.password is not None:
            raise ValueError("a Redis URL must not hold a password")
        self._port = self._place.port or 6379  # raises ValueError for no number
        self._credentials = [username, password] if username else [password]
        self._budget_seconds = budget_seconds
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep_connected())
        self.connected_since: float | None = None
        """Monotonic time of the last connection; None while there is none."""

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        budget_seconds: float = 0.05,
        username: str | None = None,
        password: str = "",
    ) -> "Redis":
        """Start keeping a connection to `unix:///path` or `redis://host:port/db`.

        Returns soon, connected or not; raises ValueError for a URL it can't read.
        """
        redis = cls(
            url, budget_seconds=budget_seconds, username=username, password=password
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(redis._up.wait(), CONNECT_WAIT_SECONDS)
        return redis

    @property
    def connected(self) -> bool:
        """Whether a call made now would be sent."""
        return self._connection is not None

    async def call(self, *command: Argument) -> Reply:
        """Run one command; those of one turn of the event loop share a write.

        Raises Unavailable when Redis is away, takes longer than the budget or can't
        serve; RedisReplyError when the command is wrong.
        """
        connection = self._connection
        if connection is None:
            raise Unavailable("Redis is away")
        batch = connection.send(_pack(command), 1, self._budget_seconds)
        (reply,) = await batch.future
        if isinstance(reply, Exception):
            raise failure(reply)
        return reply

    async def call_many(
        self,
        commands: Sequence[Sequence[Argument]],
        *,
        budget_seconds: float | None = None,
    ) -> list[Reply | RedisReplyError]:
        """Run commands in order in one round trip; error replies are among the results.

        The budget is for all together. Raises Unavailable as `call` does; then any
        number of them may have been applied.
        """
        if not commands:
            return []
        connection = self._connection
        if connection is None:
            raise Unavailable("Redis is away")
        batch = connection.send(
            b"".join([_pack(tuple(command)) for command in commands]),
            len(commands),
            self._budget_seconds if budget_seconds is None else budget_seconds,
        )
        replies = await batch.future
        if isinstance(replies[0], Unavailable):
            raise replies[0]
        return replies

    async def close(self) -> None:
        """Drop the connection; calls under way raise Unavailable."""
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
                backoff = FIRST_BACKOFF_SECONDS
                self._connection = connection
                self.connected_since = time.monotonic()
                self._up.set()
                await connection.lost.wait()
            except (OSError, TimeoutError, Unavailable, HiredisError):
                # Away, starting, or refusing us: whoever calls is told, we try again.
                pass
            finally:
                self._connection = None
                self.connected_since = None
                connection.abort()
            # Jitter: the workers of a Redis that comes back must not come in step.
            await asyncio.sleep(backoff * random.uniform(0.5, 1.5))  # noqa: S311
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    async def _open(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        place = self._place
        if place.scheme == "unix":
            path = unquote(place.path)
            await loop.create_unix_connection(lambda: connection, path)
        else:
            host = place.hostname or "127.0.0.1"
            await loop.create_connection(lambda: connection, host, self._port)

    async def _shake_hands(self, connection: Connection) -> None:
        greetings: list[list[str]] = []
        if self._credentials[-1]:
            greetings.append(["AUTH", *map(str, self._credentials)])
        if self._place.scheme == "redis" and self._place.path.strip("/"):
            greetings.append(["SELECT", self._place.path.strip("/")])
        greetings.append(["PING"])
        packed = b"".join(_pack(tuple(greeting)) for greeting in greetings)
        batch = connection.send(packed, len(greetings), HANDSHAKE_SECONDS)
        for reply in await batch.future:
            if isinstance(reply, Exception):
                raise failure(reply)


class Script:
    """A script, known to Redis by its hash.

    Redis forgets scripts when it restarts: it is then told again, once, and the call
    repeated with the same arguments.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, *names: str) -> Self:
        """Read files beside this one as one script; the last calls the first ones."""
        folder = Path(__file__).parent
        return cls("\n".join((folder / name).read_text("utf-8") for name in names))

    async def __call__(
        self, redis: Redis, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> Reply:
        """Run it. Raises what `Redis.call` raises."""
        try:
            return await redis.call("EVALSHA", self.sha, len(keys), *keys, *arguments)
        except RedisReplyError as error:
            if error.code != "NOSCRIPT":
                raise
        await redis.call("SCRIPT", "LOAD", self.source)
        return await redis.call("EVALSHA", self.sha, len(keys), *keys, *arguments)


Run = tuple[Script, Sequence[str], Sequence[Argument]]
"""One run of a script: its keys and arguments."""


async def run_all(
    redis: Redis, runs: Sequence[Run], *, budget_seconds: float
) -> list[Reply]:
    """Run scripts in order, in one round trip.

    Raises for the first that failed; by then any number may have been applied. Where
    Redis has forgotten a script all are run again, which each must allow.
    """
    commands = [
        ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        for script, keys, arguments in runs
    ]
    replies = await redis.call_many(commands, budget_seconds=budget_seconds)
    if any(_is_unknown(reply) for reply in replies):
        sources = {script.source for script, _, _ in runs}
        loads = [("SCRIPT", "LOAD", source) for source in sources]
        replies = await redis.call_many(
            [*loads, *commands], budget_seconds=budget_seconds
        )
        replies = replies[len(loads) :]
    for reply in replies:
        if isinstance(reply, RedisReplyError):
            raise failure(reply)
    return replies


def _is_unknown(reply: Reply) -> bool:
    return isinstance(reply, RedisReplyError) and reply.code == "NOSCRIPT"
