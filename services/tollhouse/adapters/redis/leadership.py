"""Who seals and ships which billing shards: leases that end by themselves.

They keep two aggregators from doing the same work, not from doing harm: every step is
harmless when two take it.
"""

import time
from collections.abc import Callable

from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.asking import ask_scripts
from tollhouse.adapters.redis.client import Redis, Script

LEASE_SECONDS = 6.0
"""After a crash the shards wait as long for another."""

_lease = Script.load("lease.lua")


class Leadership:
    """The shards that this process leads."""

    def __init__(
        self,
        redis: Redis,
        holder: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`holder` is a name no other process has, and no earlier life of this one."""
        self._redis = redis
        self._holder = holder
        self._monotonic = monotonic
        self._until: dict[int, float] = {}

    @property
    def shards(self) -> list[int]:
        """Those whose lease still runs."""
        now = self._monotonic()
        return [shard for shard, until in self._until.items() if now < until]

    async def renew(self) -> None:
        """Keep what is held, take what is free. Raises Unavailable."""
        # From before the call: the lease must not seem longer than Redis keeps it.
        until = self._monotonic() + LEASE_SECONDS
        milliseconds = round(LEASE_SECONDS * 1000)
        replies = await self._ask(range(billing_keys.BILLING_SHARDS), milliseconds)
        self._until = {shard: until for shard, reply in enumerate(replies) if reply}

    async def resign(self) -> None:
        """Give all back. Raises Unavailable; then they run out."""
        shards, self._until = list(self._until), {}
        await self._ask(shards, 0)

    async def _ask(self, shards: "range | list[int]", milliseconds: int) -> list[int]:
        return await ask_scripts(
            self._redis,
            [
                (
                    _lease,
                    [billing_keys.of_shard(shard, "leader")],
                    [self._holder, milliseconds],
                )
                for shard in shards
            ],
        )
