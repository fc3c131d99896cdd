"""A small asyncio Redis client: automatic pipelining, a budget a call, cluster or not.

Replies come in the order of the commands (RESP, https://redis.io/docs/latest/develop/
reference/protocol-spec/), so whoever gave up keeps its place in the queue and its late
reply is dropped there. A call that raised Unavailable may still be applied by Redis:
whoever repeats it must do so under the same id.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from tollhouse.adapters.redis.access import RedisAccess, Refusals
from tollhouse.adapters.redis.cluster import Cluster
from tollhouse.adapters.redis.connection import RedisReplyError, failure
from tollhouse.adapters.redis.node import Address, Argument, Node
from tollhouse.core.problems import Unavailable

__all__ = [
    "Argument",
    "Observe",
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

    def __init__(
        self,
        servers: Node | Cluster,
        budget_seconds: float,
        observe: "Observe | None" = None,
    ) -> None:
        self._servers = servers
        self.budget_seconds = budget_seconds
        self.observe = observe
        """Told of every script that is run here."""

    @classmethod
    async def connect(
        cls,
        place: RedisAccess | str,
        *,
        budget_seconds: float = 0.05,
        is_quiet: bool = False,
        observe: "Observe | None" = None,
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
        return cls(servers, budget_seconds, observe)

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

    def __init__(self, source: str, name: str = "") -> None:
        self.source = source
        self.name = name
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, *names: str) -> Self:
        """Read files beside this one as one script; the last calls the first ones.

        It is named for the last.
        """
        folder = Path(__file__).parent
        source = "\n".join((folder / name).read_text("utf-8") for name in names)
        return cls(source, names[-1].removesuffix(".lua"))

    async def __call__(
        self,
        redis: Redis,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        *,
        budget_seconds: float | None = None,
        observe: "Observe | None" = None,
    ) -> Reply:
        """Run it within a budget, else the client's. Raises what `Redis.call` does."""
        if budget_seconds is None:
            budget_seconds = redis.budget_seconds
        runs = ((self, keys, arguments),)
        (reply,) = await run_all(
            redis, runs, budget_seconds=budget_seconds, observe=observe
        )
        return reply


Run = tuple[Script, Sequence[str], Sequence[Argument]]
"""One run of a script: its keys and arguments."""

Observe = Callable[[Run, int, int, str], None]
"""Is told of a run after it, for metrics and spans; must neither wait nor raise.

From when until when it was under way, in Unix nanoseconds, and "", the code of its
error reply (those of Lua are ERR), or UNREACHED. Of several runs of one script in a
round trip it is told of the first, and of the first with each error: a time is one of a
round trip. The keys name the slot; an argument is nobody's business.
"""
UNREACHED = "UNREACHED"
"""Redis was away or took too long; it may be run or not."""
_NOBODY = (None, None)


async def run_all(
    redis: Redis,
    runs: Sequence[Run],
    *,
    budget_seconds: float,
    observe: Observe | None = None,
) -> list[Reply]:
    """Run scripts in order, in one round trip.

    Raises for the first that failed; by then any number may have been applied. Where
    Redis has forgotten a script all are run again, once, which each must allow.
    `observe` is told of them, beside who is told of all.
    """
    started_ns, observers = time.time_ns(), (redis.observe, observe)
    try:
        replies = await _replies(redis, runs, budget_seconds)
    except Unavailable:
        _tell(observers, runs, started_ns)
        raise
    if observers != _NOBODY:
        _tell(observers, runs, started_ns, replies)
    for reply in replies:
        if isinstance(reply, RedisReplyError):
            raise failure(reply)
    return replies


async def _replies(
    redis: Redis, runs: Sequence[Run], budget_seconds: float
) -> list[Reply]:
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
    return replies


def _is_unknown(reply: Reply) -> bool:
    return isinstance(reply, RedisReplyError) and reply.code == "NOSCRIPT"


def _tell(
    observers: Iterable[Observe | None],
    runs: Sequence[Run],
    started_ns: int,
    replies: Sequence[Reply] | None = None,
) -> None:
    """Tell who wants to know; without replies Redis was not reached."""
    ended_ns = time.time_ns()
    for run, error in _apart(runs, replies):
        for observe in observers:
            if observe is not None:
                observe(run, started_ns, ended_ns, error)


def _apart(
    runs: Sequence[Run], replies: Sequence[Reply] | None
) -> Iterable[tuple[Run, str]]:
    """The first run of each script that went well, and the first with each error."""
    errors = [UNREACHED] * len(runs)
    if replies is not None:
        errors = [it.code if isinstance(it, RedisReplyError) else "" for it in replies]
    if len(runs) == 1:  # all there is in the way of a request
        return ((runs[0], errors[0]),)
    first: dict[tuple[str, str], Run] = {}
    for run, error in zip(runs, errors, strict=True):
        first.setdefault((run[0].name, error), run)
    return [(run, error) for (_, error), run in first.items()]
