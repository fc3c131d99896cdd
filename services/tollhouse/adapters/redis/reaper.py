"""Closes exchanges that nobody serves any more."""

from collections.abc import Sequence

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.client import Redis, Run
from tollhouse.adapters.redis.exchanges import Exchanges, Located, Written
from tollhouse.adapters.redis.steps import CLOSED_MS, Scripts, Steps
from tollhouse.adapters.redis.stored import Stored
from tollhouse.core.exchange import Settlement, abandoned

REAPED_AT_ONCE = 100
"""Per slot and look; the rest waits for the next look."""


class Reaper:
    """Reaps exchanges whose lease has run out, whoever reserved them."""

    def __init__(self, redis: Redis, *, scripts: Scripts | None = None) -> None:
        self._redis = redis
        self._steps = Steps(scripts or Scripts.load())
        self._exchanges = Exchanges(redis, self._steps)

    async def reap_expired(self) -> list[Settlement]:
        """Close every exchange whose lease has run out; returns as `reap` does."""
        return await self.reap(await self.expired())

    async def expired(self) -> list[Located]:
        """Slots and ids of exchanges whose lease has run out, in all slots."""
        # Redis' clock made the leases' ends, so its clock judges them.
        seconds, microseconds = map(int, await self._redis.call("TIME"))
        now_ms = seconds * 1000 + microseconds // 1000
        places = range(shards.FLEET + 1)
        replies = await self._exchanges.ask(
            [
                (
                    *("ZRANGEBYSCORE", shards.leases(slot), "-inf", now_ms),
                    *("LIMIT", 0, REAPED_AT_ONCE),
                )
                for slot in places
            ]
        )
        return [
            (slot, exchange_id.decode())
            for slot, ids in zip(places, replies, strict=True)
            for exchange_id in ids
        ]

    async def reap(self, expired: Sequence[Located]) -> list[Settlement]:
        """Close these exchanges, unless they are over or their lease was extended.

        Returns those that were closed so, with what they are billed for.
        """
        reaping: list[Written] = []
        lost: list[Run] = []
        broken: list[tuple[str, str]] = []
        late: list[Located] = []
        kept = await self._exchanges.stored(expired)
        released = await self._released(expired, kept)
        for place, stored in zip(expired, kept, strict=True):
            slot, exchange_id = place
            if stored is None or stored.facts is None:
                # Nothing is known but the id: its lease goes, and it never comes back.
                lost.append(self._steps.release(slot, exchange_id, None, CLOSED_MS))
                if stored is not None and not stored.state:
                    broken.append(("DEL", shards.exchange(slot, exchange_id)))
            elif place in released:
                late.append(place)
            else:
                facts, beat = stored.facts, stored.last_beat(exchange_id)
                run = self._steps.reap(slot, exchange_id, facts, stored.ended_ms)
                reaping.append((run, abandoned(exchange_id, facts, beat)))
        await self._exchanges.ask(broken)
        await self._exchanges.run(lost)
        await self._exchanges.release(late)
        return await self._exchanges.write(reaping)

    async def _released(
        self, places: Sequence[Located], kept: Sequence[Stored | None]
    ) -> set[Located]:
        """Find those of the fleet's slot that are released in their tenant's.

        Their RESERVE was under way meanwhile: they were never admitted, and the fleet's
        slot has no tombstones of the ledger's.
        """
        found = [
            (place, (shards.shard(stored.facts.tenant), place[1]))
            for place, stored in zip(places, kept, strict=True)
            if place[0] == shards.FLEET and stored is not None
            if stored.state == "R" and stored.facts is not None
        ]
        states = await self._exchanges.stored([of_tenant for _, of_tenant in found])
        return {
            place
            for (place, _), stored in zip(found, states, strict=True)
            if stored is not None and stored.state == "X"
        }
