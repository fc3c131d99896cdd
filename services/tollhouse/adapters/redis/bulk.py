"""Reads of many keys, for reports: in turns, so that no call holds up the servers."""

from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import islice
from typing import Any

from tollhouse.adapters.redis.asking import BUDGET_SECONDS, ask
from tollhouse.adapters.redis.client import Argument, Redis, RedisReplyError
from tollhouse.core.problems import Unavailable

AT_ONCE = 500
"""Commands of one round trip, entries of one page; about 1 ms of Redis."""


async def ask_in_turns(
    redis: Redis, commands: Iterable[Sequence[Argument]]
) -> list[Any]:
    """Run commands, some at a time. Raises Unavailable, also for an error reply."""
    replies: list[Any] = []
    left = iter(commands)
    while turn := list(islice(left, AT_ONCE)):
        replies += await ask(redis, turn)
    return replies


async def scan(redis: Redis, pattern: str) -> set[str]:
    """All keys of a pattern, on every server. Raises Unavailable."""
    found: set[str] = set()
    for node in redis.nodes:
        cursor = b"0"
        while True:
            command = ("SCAN", cursor, "MATCH", pattern, "COUNT", AT_ONCE)
            (reply,) = await node.send((command,), BUDGET_SECONDS)
            if isinstance(reply, Unavailable):
                raise reply
            if isinstance(reply, RedisReplyError):
                raise Unavailable(f"Redis answered {reply.code}") from reply
            cursor, keys = reply
            found.update(key.decode() for key in keys)
            if cursor == b"0":
                break
    return found


async def stream(redis: Redis, key: str) -> AsyncIterator[tuple[bytes, list[bytes]]]:
    """Entries of a stream, oldest first: id, and fields with their values, flat.

    What is appended meanwhile comes too. Raises Unavailable.
    """
    after = "-"
    while True:
        (page,) = await ask(redis, [("XRANGE", key, after, "+", "COUNT", AT_ONCE)])
        for entry_id, fields in page:
            yield entry_id, fields
        if len(page) < AT_ONCE:
            return
        after = f"({page[-1][0].decode()}"
