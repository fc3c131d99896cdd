"""A small asyncio Redis client: automatic pipelining, a budget a call, cluster or not.

Replies come in the order of the commands (RESP, https://redis.io/docs/latest/develop/
reference/protocol-spec/), so whoever gave up keeps its place in the queue and its late
reply is dropped there. A call that raised Unavailable may still be applied by Redis:
whoever repeats it must do so under the same id.
"""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tollhouse.adapters.redis.access import RedisAccess, Refusals
from tollhouse.adapters.redis.cluster import Cluster
from tollhouse.adapters.redis.connection import RedisReplyError, failure
from tollhouse.adapters.redis.node import Address, Argument, Node
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

Reply = Any
"""bytes, int, None, or a list of these."""

CONNECT_WAIT_SECONDS = 0.25
"""What `connect` waits for the first connection before it returns without one."""


class Redis:
    """One server or a cluster, over one connection to each that is kept up.

    Not for blocking commands (BLPOP, XREAD BLOCK): they would hold up everyone's. In a
    cluster the keys of one command share a slot; commands of one call need not.
    """

    def __init__(self, servers: Node | Cluster, budget_seconds: float) -> None:
        self._servers = servers
        self.budget_seconds = budget_seconds

    @classmethod
    async def connect(
        cls,
        place: RedisAccess | str,
        *,
        budget_seconds: float = 0.05,
        is_quiet: bool = False,
    ) -> "Redis":
        """Start keeping connections to a Redis; a URL alone is one without users.

        Returns soon, connected or not; raises ValueError for what can't lead to a
        Redis, a file that can't be used included. What keeps us out goes to the log,
        unless it `is_quiet`; `trouble` has it too.
        """
        access = RedisAccess(place) if isinstance(place, str) else place
        access.check()
        refusals = Refusals(access, is_quiet=is_quiet)
        servers: Node | Cluster
        if access.is_cluster:
            servers = Cluster.open(access, refusals)
        else:
            servers = Node(Address.parse(access.url), access, refusals)
        await servers.wait_connected(CONNECT_WAIT_SECONDS)
        return cls(servers, budget_seconds)

    @property
    def connected(self) -> bool:
        """Whether a call made now would be sent, whatever its key."""
        return self.connected_since is not None

    @property
    def connected_since(self) -> float | None:
        """Monotonic time since when all servers are connected; None while one isn't."""
        return self._servers.connected_since

    @property
    def trouble(self) -> Unavailable:
        """What a call meets while `connected` is False."""
        return self._servers.trouble

    @property
    def nodes(self) -> Sequence[Node]:
        """Every server that has keys, for what has to be asked of each."""
        return self._servers.nodes

    async def call(self, *command: Argument) -> Reply:
        """Run one command; those of one turn of the event loop share a write.

        Raises Unavailable when Redis is away, takes longer than the budget or can't
        serve; RedisReplyError when the command is wrong.
        """
        (reply,) = await self._servers.send((command,), self.budget_seconds)
        if isinstance(reply, Exception):
            raise failure(reply)
        return reply

    async def call_many(
        self,
        commands: Sequence[Sequence[Argument]],
        *,
        budget_seconds: float | None = None,
    ) -> list[Reply | RedisReplyError]:
        """Run commands in one round trip; error replies are among the results.

        They run in order, in a cluster those of one node. The budget is for all
        together. Raises Unavailable as `call` does; then any number of them may have
        been applied.
        """
        if not commands:
            return []
        if budget_seconds is None:
            budget_seconds = self.budget_seconds
        replies = await self._servers.send(commands, budget_seconds)
        if isinstance(replies[0], Unavailable):
            raise replies[0]
        return replies

    async def close(self) -> None:
        """Drop the connections; calls under way raise Unavailable."""
        await self._servers.close()


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
        self,
        redis: Redis,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        *,
        budget_seconds: float | None = None,
    ) -> Reply:
        """Run it within a budget, else the client's. Raises what `Redis.call` does."""
        if budget_seconds is None:
            budget_seconds = redis.budget_seconds
        runs = ((self, keys, arguments),)
        (reply,) = await run_all(redis, runs, budget_seconds=budget_seconds)
        return reply


Run = tuple[Script, Sequence[str], Sequence[Argument]]
"""One run of a script: its keys and arguments."""


async def run_all(
    redis: Redis, runs: Sequence[Run], *, budget_seconds: float
) -> list[Reply]:
    """Run scripts in order, in one round trip.

    Raises for the first that failed; by then any number may have been applied. Where
    Redis has forgotten a script all are run again, once, which each must allow.
    """
    deadline = time.monotonic() + budget_seconds
    commands = [
        ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        for script, keys, arguments in runs
    ]
    replies = await redis.call_many(commands, budget_seconds=budget_seconds)
    if any(_is_unknown(reply) for reply in replies):
        sources = {script.source for script, _, _ in runs}
        loads = [("SCRIPT", "LOAD", source) for source in sources]
        left = deadline - time.monotonic()
        if left <= 0:
            raise Unavailable("Redis took too long")
        replies = await redis.call_many([*loads, *commands], budget_seconds=left)
        replies = replies[len(loads) :]
    for reply in replies:
        if isinstance(reply, RedisReplyError):
            raise failure(reply)
    return replies


def _is_unknown(reply: Reply) -> bool:
    return isinstance(reply, RedisReplyError) and reply.code == "NOSCRIPT"
