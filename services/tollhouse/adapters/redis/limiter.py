"""Reserves room for exchanges and settles what they used."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.client import Argument, Redis, Reply, Run, run_all
from tollhouse.adapters.redis.connection import failure
from tollhouse.adapters.redis.steps import Scripts, Steps, Writing, limits_of
from tollhouse.core.exchange import Beat, Release, Settlement, nothing_used
from tollhouse.core.limits import Granted, Refused, Reservation
from tollhouse.core.problems import Unavailable
from tollhouse.core.usage import Facts, decode_facts

BATCH_SECONDS = 2.0
"""Budget of a batch behind the requests; nobody waits for it."""
REAPED_AT_ONCE = 100
"""Per shard and look; the rest waits for the next look."""


class Limiter:
    """Reserves room for exchanges, and settles what they used.

    Every step may be repeated, from any process: it counts once. A step that raised
    Unavailable may have been applied.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        lease_seconds: float = 20.0,
        scripts: Scripts | None = None,
    ) -> None:
        self._redis = redis
        self._steps = Steps(scripts or Scripts.load(), round(lease_seconds * 1000))

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        """Take the estimate from every limit at once, or from none.

        Raises Unavailable within the client's budget; not transient when the exchange
        is over already. The caller refuses then, and releases.
        """
        script, keys, arguments = self._steps.reserve(reservation)
        reply = await script(self._redis, keys, arguments)
        if reply[0] < 0:
            raise Unavailable("the exchange is over", transient=False)
        verdict, limit, wait_ms, *state = reply
        limits = limits_of(reservation.key, reservation.tenant_model)
        if verdict:
            return limits.granted(state)
        return limits.refused(state, limit - 1, math.inf if wait_ms < 0 else wait_ms)

    async def release(self, reservation: Reservation) -> None:
        """Give back all a reservation took, whether it was granted or not."""
        facts = reservation.facts
        release = Release(reservation.exchange_id, facts.tenant)
        await self._release([(release, facts)])

    async def apply(
        self,
        releases: Sequence[Release],
        beats: Sequence[Beat],
        settlements: Sequence[Settlement],
    ) -> set[int]:
        """Do what a stretch of the ledger asks for, in one round trip as a rule.

        Returns the shards whose outbox got records. All is done when this returns; on
        Unavailable repeat the whole.
        """
        # They start in this order in one turn of the loop, so they share a write.
        released, _, settled = await asyncio.gather(
            self._release([(release, None) for release in releases]),
            self.beat_many(beats),
            self.settle_many(settlements),
        )
        return released | settled

    async def beat_many(self, beats: Sequence[Beat]) -> None:
        """Extend leases, keep counts, charge what exceeds the reservations."""
        await self._run([self._steps.beat(beat) for beat in beats])

    async def settle_many(self, settlements: Sequence[Settlement]) -> set[int]:
        """Settle exchanges; returns as `apply` does."""
        return await self._write([self._steps.settle(it) for it in settlements])

    async def reap_expired(self) -> set[int]:
        """Close every exchange whose lease has run out; returns as `apply` does."""
        return await self.reap(await self.expired())

    async def expired(self) -> list[tuple[int, str]]:
        """Shards and ids of exchanges whose lease has run out, in all shards."""
        # Redis' clock made the leases' ends, so its clock judges them.
        seconds, microseconds = map(int, await self._redis.call("TIME"))
        now_ms = seconds * 1000 + microseconds // 1000
        replies = await self._many(
            [
                (
                    *(
                        "ZRANGEBYSCORE",
                        shards.leases(shard),
                        "-inf",
                        now_ms,
                    ),
                    *("LIMIT", 0, REAPED_AT_ONCE),
                )
                for shard in range(shards.SHARDS)
            ]
        )
        return [
            (shard, exchange_id.decode())
            for shard, ids in enumerate(replies)
            for exchange_id in ids
        ]

    async def reap(self, expired: Sequence[tuple[int, str]]) -> set[int]:
        """Close these exchanges, unless they are over or their lease was extended."""
        reaping: list[Writing] = []
        lost: list[Run] = []
        kept = await self._stored(expired)
        for (shard, exchange_id), stored in zip(expired, kept, strict=True):
            if stored is None or stored.facts is None:
                # Nothing is known but the id: its lease goes, and it never comes back.
                lost.append(self._steps.release(shard, exchange_id, None))
            else:
                reaping.append(
                    self._steps.reap(exchange_id, stored.facts, stored.ended_ms)
                )
        await self._run(lost)
        return await self._write(reaping)

    async def _release(
        self, releases: Sequence[tuple[Release, Facts | None]]
    ) -> set[int]:
        places = [
            (shards.shard(release.tenant), release.exchange_id)
            for release, _ in releases
        ]
        runs = [
            self._steps.release(*place, facts)
            for place, (_, facts) in zip(places, releases, strict=True)
        ]
        replies = await self._run(runs)
        held = [
            place
            for place, reply in zip(places, replies, strict=True)
            if reply in (_REAPED, _RESERVED)
        ]
        again: list[tuple[Release, Facts | None]] = []
        taken_back: list[Writing] = []
        kept = await self._stored(held)
        for (_, exchange_id), stored in zip(held, kept, strict=True):
            if stored is None or stored.facts is None:
                continue  # Over since; whoever ended it did what there was to do.
            if stored.state == b"R":
                release = Release(exchange_id, stored.facts.tenant)
                again.append((release, stored.facts))
            else:
                nothing = nothing_used(
                    exchange_id, stored.facts, stored.started_ms, stored.ended_ms
                )
                taken_back.append(self._steps.settle(nothing))
        written = await self._write(taken_back)
        return written | await self._release(again) if again else written

    async def _write(self, writings: Sequence[Writing]) -> set[int]:
        """Run what writes records, again where the script names another hour."""
        written = set()
        while writings:
            replies = await self._run([it.run(it.hour) for it in writings])
            again = []
            for writing, reply in zip(writings, replies, strict=True):
                if reply == 1:
                    written.add(writing.shard)
                elif reply < 0:
                    again.append(replace(writing, hour=-reply))
            writings = again
        return written

    async def _run(self, runs: Sequence[Run]) -> list[Reply]:
        return await run_all(self._redis, runs, budget_seconds=BATCH_SECONDS)

    async def _stored(
        self, places: Sequence[tuple[int, str]]
    ) -> list["_Stored | None"]:
        keys = [shards.exchange(shard, exchange_id) for shard, exchange_id in places]
        texts = await self._many([("GET", key) for key in keys])
        return [None if text is None else _Stored.parse(text) for text in texts]

    async def _many(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        replies = await self._redis.call_many(commands, budget_seconds=BATCH_SECONDS)
        for reply in replies:
            if isinstance(reply, Exception):
                raise failure(reply)
        return replies


_REAPED, _RESERVED = 2, 3
"""Replies of RELEASE that ask for more."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """An exchange as exchange.lua keeps it; 0 where no counts are known yet."""

    state: bytes
    facts: Facts | None
    started_ms: int
    ended_ms: int

    @classmethod
    def parse(cls, text: bytes) -> "_Stored":
        head, _, rest = text.partition(b"\n")
        if not rest:
            return cls(head, None, 0, 0)
        counts, _, facts = rest.partition(b"\n")
        *_, started, _, ended = map(int, counts.split() or (0, 0, 0))
        return cls(head[:1], decode_facts(facts), started, ended)
