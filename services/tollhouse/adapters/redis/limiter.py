"""Reserves room for exchanges and settles what they used."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.answer import OVER, STALE, Answer
from tollhouse.adapters.redis.client import (
    Argument,
    Observe,
    Redis,
    Reply,
    Run,
    run_all,
)
from tollhouse.adapters.redis.connection import failure
from tollhouse.adapters.redis.steps import (
    CLOSED_MS,
    RELEASED_MS,
    Scripts,
    Steps,
    Writing,
    sides,
    slots,
)
from tollhouse.adapters.redis.stored import Stored
from tollhouse.core import room
from tollhouse.core.exchange import (
    Beat,
    Release,
    Settlement,
    abandoned,
    nothing_used,
)
from tollhouse.core.ids import created_ms
from tollhouse.core.limits import Debit
from tollhouse.core.problems import ProtocolError, Unavailable
from tollhouse.core.reservation import Granted, Refused, Reservation
from tollhouse.core.usage import Facts

BATCH_SECONDS = 2.0
"""Budget of a batch behind the requests; nobody waits for it."""
REAPED_AT_ONCE = 100
"""Per slot and look; the rest waits for the next look."""

Located = tuple[int, str]
"""Slot and id of an exchange."""
_Written = tuple[Writing, Settlement]
"""A step and what its record says."""
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
        self._steps = Steps(scripts or Scripts.load(), round(lease_seconds * 1000))
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
            script, keys, arguments = self._steps.reserve(reservation, side, elsewhere)
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
            await self._release(places, kept_ms=0)

    async def release(
        self, reservation: Reservation, *, observe: Observe | None = None
    ) -> None:
        """Give back all a reservation took, whether it was granted or not."""
        id_ = reservation.exchange_id
        found = sides(reservation, created_ms(id_))
        await self._release([(side.slot, id_) for side in found], observe=observe)

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
            self._release(places),
            self._release_of_fleet([it.exchange_id for it in releases]),
            self.beat_many(beats),
            self.settle_many(settlements),
        )
        return released + settled

    async def beat_many(self, beats: Sequence[Beat]) -> None:
        """Extend leases, keep counts, charge what exceeds the reservations."""
        steps = self._steps
        await self._run(
            [steps.beat(slot, beat) for beat in beats for slot in slots(beat.facts)]
        )

    async def settle_many(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        """Settle exchanges; returns as `apply` does."""
        return await self._write(
            [
                (self._steps.settle(slot, settlement), settlement)
                for settlement in settlements
                for slot in slots(settlement.facts)
            ]
        )

    async def reap_expired(self) -> list[Settlement]:
        """Close every exchange whose lease has run out; returns as `apply` does."""
        return await self.reap(await self.expired())

    async def expired(self) -> list[Located]:
        """Slots and ids of exchanges whose lease has run out, in all slots."""
        # Redis' clock made the leases' ends, so its clock judges them.
        seconds, microseconds = map(int, await self._redis.call("TIME"))
        now_ms = seconds * 1000 + microseconds // 1000
        places = range(shards.FLEET + 1)
        replies = await self._many(
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
        reaping: list[_Written] = []
        lost: list[Run] = []
        broken: list[tuple[str, str]] = []
        late: list[Located] = []
        kept = await self._stored(expired)
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
        await self._many(broken)
        await self._run(lost)
        await self._release(late)
        return await self._write(reaping)

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
        states = await self._stored([of_tenant for _, of_tenant in found])
        return {
            place
            for (place, _), stored in zip(found, states, strict=True)
            if stored is not None and stored.state == "X"
        }

    async def _release_of_fleet(self, ids: Sequence[str]) -> None:
        """Give back what the fleet's limits still hold of exchanges; rarely anything.

        Nearly all were refused: looking first keeps a flood of refusals, whosever they
        are, away from the one slot that all share.
        """
        places = [(shards.FLEET, exchange_id) for exchange_id in ids]
        kept = await self._stored(places)
        await self._release(
            [it for it, stored in zip(places, kept, strict=True) if stored is not None]
        )

    async def _release(
        self,
        places: Sequence[Located],
        *,
        kept_ms: int = RELEASED_MS,
        observe: Observe | None = None,
    ) -> list[Settlement]:
        steps, written = self._steps, list[Settlement]()
        known: list[Facts | None] = [None] * len(places)
        while places:
            replies = await self._run(
                [
                    steps.release(*place, facts, kept_ms)
                    for place, facts in zip(places, known, strict=True)
                ],
                observe,
            )
            held = [
                place
                for place, reply in zip(places, replies, strict=True)
                if reply in (_REAPED, _RESERVED)
            ]
            places, known, taken_back = [], [], []
            for place, stored in zip(held, await self._stored(held), strict=True):
                if stored is None or stored.facts is None:
                    continue  # Over since; whoever ended it did what there was to do.
                if stored.state == "R":
                    places.append(place)
                    known.append(stored.facts)
                else:
                    slot, exchange_id = place
                    nothing = nothing_used(
                        exchange_id, stored.facts, stored.started_ms, stored.ended_ms
                    )
                    taken_back.append((steps.settle(slot, nothing), nothing))
            written += await self._write(taken_back)
        return written

    async def _write(self, writings: Sequence[_Written]) -> list[Settlement]:
        """Run what writes records, again where the script names another hour."""
        written = []
        while writings:
            replies = await self._run([it.run(it.hour) for it, _ in writings])
            again = []
            for (writing, of), reply in zip(writings, replies, strict=True):
                if reply == 1 and writing.hour is not None:
                    written.append(of)
                elif reply < 0:
                    again.append((replace(writing, hour=-reply), of))
            writings = again
        return written

    async def _run(
        self, runs: Sequence[Run], observe: Observe | None = None
    ) -> list[Reply]:
        return await run_all(
            self._redis, runs, budget_seconds=BATCH_SECONDS, observe=observe
        )

    async def _stored(self, places: Sequence[Located]) -> list[Stored | None]:
        keys = [shards.exchange(slot, exchange_id) for slot, exchange_id in places]
        texts = await self._many([("GET", key) for key in keys])
        return [None if text is None else _read(text) for text in texts]

    async def _many(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        replies = await self._redis.call_many(commands, budget_seconds=BATCH_SECONDS)
        for reply in replies:
            if isinstance(reply, Exception):
                raise failure(reply)
        return replies


def _read(text: bytes) -> Stored:
    try:
        return Stored.parse(text)
    except ProtocolError:  # not ours: as if nothing but its key were there
        return Stored("")


_REAPED, _RESERVED = 2, 3
"""Replies of RELEASE that ask for more."""
