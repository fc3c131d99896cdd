"""Commands nobody waits for: a generous budget, and one kind of failure."""

from collections.abc import Iterable, Sequence
from typing import Any

from tollhouse.adapters.redis.client import (
    Argument,
    Redis,
    RedisReplyError,
    Reply,
    Run,
    run_all,
)
from tollhouse.core.problems import Unavailable

BUDGET_SECONDS = 2.0
"""Behind a slow fsync it is still worth the wait."""


async def ask(redis: Redis, commands: Iterable[Sequence[Argument]]) -> list[Any]:
    """Run commands in one round trip. Raises Unavailable, also for an error reply."""
    replies = await redis.call_many(list(commands), budget_seconds=BUDGET_SECONDS)
    for reply in replies:
        if isinstance(reply, RedisReplyError):
            raise Unavailable(f"Redis answered {reply.code}") from reply
    return replies


async def ask_scripts(redis: Redis, runs: Sequence[Run]) -> list[Reply]:
    """Run scripts in one round trip. Raises Unavailable, also for an error reply."""
    try:
        return await run_all(redis, runs, budget_seconds=BUDGET_SECONDS)
    except RedisReplyError as error:
        raise Unavailable(f"Redis answered {error.code}") from error
