"""How much usage has not reached the provider yet, over all billing shards."""

from dataclasses import dataclass

from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.asking import ask
from tollhouse.adapters.redis.client import Redis
from tollhouse.core.chunk import parse_id
from tollhouse.core.windows import SECONDS_PER_HOUR

OVERDUE_SECONDS = SECONDS_PER_HOUR
"""A row that is due for longer has no customer, or nobody seals."""
_MOST_READ = 200
"""Open chunks per shard whose age is looked at."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Counts of what waits, and the age in seconds of the chunk sealed first.

    `overdue`: rows that should have been sealed long ago.
    """

    open_chunks: int
    oldest_open_seconds: int
    parked_chunks: int
    overdue_rows: int


class Backlogs:
    """Looks at the whole aggregator."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def look(self, now: int) -> Backlog:
        """Count. Raises Unavailable."""
        overdue = now - OVERDUE_SECONDS
        looks: list[tuple[str | int, ...]] = []
        for shard in range(billing_keys.BILLING_SHARDS):
            unsealed = billing_keys.of_shard(shard, "unsealed")
            open_ = billing_keys.of_shard(shard, "open")
            looks += (
                ("ZCARD", open_),
                ("ZCARD", billing_keys.of_shard(shard, "parked")),
                ("ZCOUNT", unsealed, "-inf", overdue),
                ("ZRANGE", open_, 0, _MOST_READ - 1),
            )
        replies = await ask(self._redis, looks)
        opened, parked, late, ids = (replies[at::4] for at in range(4))
        sealed = await ask(
            self._redis,
            [
                ("HGET", billing_keys.chunk(*parse_id(id_.decode())), "sealed_at")
                for found in ids
                for id_ in found
            ],
        )
        first = min((int(at) for at in sealed if at), default=now)
        return Backlog(
            open_chunks=sum(opened),
            oldest_open_seconds=max(0, now - first),
            parked_chunks=sum(parked),
            overdue_rows=sum(late),
        )
