"""How long record ids are remembered: until no outbox can send them again.

Relays tell how old the oldest record in their outbox is. Ids are kept `hours` behind
the oldest of these and behind now, so after an outage of any length everything is
billed without an operator. An outbox that is never heard of again (its gateway was
taken down) keeps them for `MOST_HOURS`.
"""

from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.asking import ask, ask_scripts
from tollhouse.adapters.redis.client import Redis, Script
from tollhouse.core.windows import SECONDS_PER_HOUR

MOST_HOURS = 35 * 24
"""What is older Stripe takes no more. At 100 records/s 19 GB."""

_AT_ONCE = 48
"""Sets dropped in one step; Redis frees them in the background."""

_forget = Script.load("forget.lua")


class Dedupe:
    """The seen sets of all shards. Methods raise Unavailable."""

    def __init__(self, redis: Redis, *, hours: int) -> None:
        self._redis = redis
        self._hours = hours

    async def note(self, outbox_id: str, oldest_at: int) -> None:
        """Keep how old (Unix seconds) the oldest record in an outbox is."""
        await ask(
            self._redis, [("HSET", billing_keys.WATERMARKS, outbox_id, oldest_at)]
        )

    async def forget(self, now: int) -> int:
        """Drop what is old enough; the last closed hour."""
        watermarks, (seconds, _) = await ask(
            self._redis, [("HVALS", billing_keys.WATERMARKS), ("TIME",)]
        )
        # A clock that is ahead for a moment must close nothing: it can't be undone.
        now = min(now, int(seconds))
        oldest = min([now, *map(int, watermarks)]) // SECONDS_PER_HOUR
        closed = max(oldest - self._hours, now // SECONDS_PER_HOUR - MOST_HOURS) - 1
        for shard in range(billing_keys.BILLING_SHARDS):
            await self._forget(shard, closed)
        return closed

    async def _forget(self, shard: int, closed: int) -> None:
        index = billing_keys.of_shard(shard, "seen")
        while True:
            look = ("ZRANGEBYSCORE", index, "-inf", closed, "LIMIT", 0, _AT_ONCE)
            (members,) = await ask(self._redis, [look])
            hours = list(map(int, members))
            sets = [billing_keys.seen(shard, hour) for hour in hours]
            keys = [billing_keys.of_shard(shard, "closed"), index, *sets]
            await ask_scripts(self._redis, [(_forget, keys, [closed, *hours])])
            if len(hours) < _AT_ONCE:
                return
