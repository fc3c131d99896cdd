"""Reserves room for exchanges and settles what they used."""

import asyncio
import contextlib
from collections.abc import Sequence

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.answer import OVER, STALE, Answer
from tollhouse.adapters.redis.client import Observe, Redis
from tollhouse.adapters.redis.exchanges import Exchanges, Located
from tollhouse.adapters.redis.steps import Scripts, Steps, sides, slots
from tollhouse.core import room
from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.ids import created_ms
from tollhouse.core.limits import Debit
from tollhouse.core.problems import Unavailable
from tollhouse.core.reservation import Granted, Refused, Reservation

_PERIODS_TRIED = 3
"""By the exchange's time, by Redis', and once more where a period ends meanwhile."""


class Limiter:
    """Reserves room for exchanges, and settles what they used.

    Every step may be repeated, from any process: it counts once. A step that raised
    Unavailable may have been applied. What all tenants share is taken first; `close`
    waits until what a tenant's limits then refused is given back.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        lease_seconds: float = 20.0,
        scripts: Scripts | None = None,
    ) -> None:
        self._redis = redis
        self._steps = Steps(scripts or Scripts.load())
        self._exchanges = Exchanges(redis, self._steps)
        self._lease_ms = round(lease_seconds * 1000)
        self._giving_back: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Finish what goes on in the background."""
        if self._giving_back:
            await asyncio.wait(self._giving_back)

    async def reserve(
        self,
        reservation: Reservation,
        *,
        budget_seconds: float | None = None,
        observe: Observe | None = None,
    ) -> Granted | Refused:
        """Take the estimate from every limit at once, or from none.

        What the fleet's slot took of a further request that the tenant's refuses stays:
        the exchange goes on, and its settlement gives it back.

        Raises Unavailable within the budget of each call, else the client's; what the
        fleet's slot gave then stays, for the caller may admit the exchange by itself,
        and if not the ledger releases it. Not transient when the exchange is over
        already: the caller refuses then, and releases.
        """
        limits, at_ms = reservation.limits, created_ms(reservation.exchange_id)
        levels: list[int | None] = [None] * len(limits)
        taken: tuple[Debit, ...] = ()
        shadowed: list[int] = []
        for index in range(len(sides(reservation, at_ms))):
            try:
                answer = await self._take(
                    reservation, index, taken, at_ms, budget_seconds, observe
                )
            except Unavailable as error:
                if index and not error.transient and reservation.so_far is None:
                    self._give_back(reservation)
                raise
            indexes = answer.side.indexes
            for limit, level in zip(indexes, answer.levels, strict=True):
                levels[limit] = level
            if answer.binding is not None:
                if index and reservation.so_far is None:
                    self._give_back(reservation)
                binding = indexes[answer.binding]
                return room.refused(limits, levels, binding, answer.wait_ms)
            taken = answer.debits
            shadowed += (indexes[shadow] for shadow in answer.shadowed)
        if reservation.so_far is not None:
            taken = reservation.so_far.debits
        return room.granted(limits, [it or 0 for it in levels], taken, shadowed)

    async def _take(  # noqa: PLR0917 - one caller, next to it
        self,
        reservation: Reservation,
        index: int,
        elsewhere: tuple[Debit, ...],
        at_ms: int,
        budget_seconds: float | None,
        observe: Observe | None,
    ) -> Answer:
        """Reserve in one slot, once more if budgets have come into another period."""
        for _ in range(_PERIODS_TRIED):
            side = sides(reservation, at_ms)[index]
            script, keys, arguments = self._steps.reserve(
                reservation, side, elsewhere, self._lease_ms
            )
            reply = await script(
                self._redis,
                keys,
                arguments,
                budget_seconds=budget_seconds,
                observe=observe,
            )
            if reply[0] == OVER:
                raise Unavailable("the exchange is over", transient=False)
            if reply[0] != STALE:
                return Answer.parse(reply, side, elsewhere)
            at_ms = reply[1]
        raise Unavailable("Redis and we do not agree on the time")

    def _give_back(self, reservation: Reservation) -> None:
        """Release in the fleet's slot, which was first, in the background.

        Nobody waits for it: if it fails, the ledger releases, and else the lease ends.
        It leaves no tombstone, for no RESERVE is under way there.
        """
        place = shards.FLEET, reservation.exchange_id
        task = asyncio.create_task(self._release_quietly([place]))
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    async def _release_quietly(self, places: Sequence[Located]) -> None:
        with contextlib.suppress(Unavailable):
            await self._exchanges.release(places, kept_ms=0)

    async def release(
        self, reservation: Reservation, *, observe: Observe | None = None
    ) -> None:
        """Give back all a reservation took, whether it was granted or not."""
        id_ = reservation.exchange_id
        found = sides(reservation, created_ms(id_))
        places = [(side.slot, id_) for side in found]
        await self._exchanges.release(places, observe=observe)

    async def apply(
        self,
        releases: Sequence[Release],
        beats: Sequence[Beat],
        settlements: Sequence[Settlement],
    ) -> list[Settlement]:
        """Do what a stretch of the ledger asks for, in one round trip as a rule.

        Returns those that were not settled before: their tenants' outboxes got records.
        All is done when this returns; on Unavailable repeat the whole.
        """
        # They start in this order in one turn of the loop, so they share a write.
        places = [(shards.shard(it.tenant), it.exchange_id) for it in releases]
        released, _, _, settled = await asyncio.gather(
            self._exchanges.release(places),
            self._release_of_fleet([it.exchange_id for it in releases]),
            self.beat_many(beats),
            self.settle_many(settlements),
        )
        return released + settled

    async def beat_many(self, beats: Sequence[Beat]) -> None:
        """Extend leases, keep counts, charge what exceeds the reservations."""
        await self._exchanges.run(
            [
                self._steps.beat(slot, beat, self._lease_ms)
                for beat in beats
                for slot in slots(beat.facts)
            ]
        )

    async def settle_many(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        """Settle exchanges; returns as `apply` does."""
        return await self._exchanges.write(
            [
                (self._steps.settle(slot, settlement), settlement)
                for settlement in settlements
                for slot in slots(settlement.facts)
            ]
        )

    async def _release_of_fleet(self, ids: Sequence[str]) -> None:
        """Give back what the fleet's limits still hold of exchanges; rarely anything.

        Nearly all were refused: looking first keeps a flood of refusals, whosever they
        are, away from the one slot that all share.
        """
        places = [(shards.FLEET, exchange_id) for exchange_id in ids]
        kept = await self._exchanges.stored(places)
        await self._exchanges.release(
            [it for it, stored in zip(places, kept, strict=True) if stored is not None]
        )
