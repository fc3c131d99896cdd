"""The relay: moves usage records from the outbox to the aggregator.

An entry leaves the outbox only after the aggregator has it for good. Until then it is
pending under this worker's name: after a crash the worker reads its pending entries
first, and when the worker stays away, other relays claim them. Every step may happen
twice; the aggregator counts a record id once.

Nothing is polled in the normal case: whoever settles calls `notify`. A sweep over all
shards every few seconds finds what other processes wrote or left behind.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice

import structlog

from tollhouse.adapters.redis.outbox import FIRST, Entry, Leaving, Outbox, Standing
from tollhouse.adapters.redis.shards import SHARDS
from tollhouse.adapters.remote import Remote
from tollhouse.adapters.usage_pb import to_pb_record, to_pb_watermark
from tollhouse.core.problems import ProtocolError, Unavailable
from tollhouse.extproc.courier import BATCH_RECORDS, Courier, Parcel

MOST_HELD = 2000
"""Records in memory at once, about 3 MB; more wait in the outbox."""

_RETRY_SECONDS = 0.5
_FLUSH_LOOK_SECONDS = 0.02

_Places = Sequence[tuple[int, bytes]]

_log = structlog.get_logger()


class Relay:
    """One worker's relay; several may work on the same outboxes.

    It lingers after a `notify`, so that what is settled at a low rate shares one trip
    too: alone a record costs both sides ten times the CPU of one among 32. `watched`
    is told how much waits, every `watch_seconds`.
    """

    def __init__(
        self,
        outbox: Outbox,
        aggregator: Remote,
        *,
        linger_seconds: float = 0.2,
        sweep_seconds: float = 3.0,
        claim_idle_seconds: float = 10.0,
        watch_seconds: float = 10.0,
        watched: Callable[[Standing], None] = lambda _: None,
    ) -> None:
        self._outbox = outbox
        self._courier = Courier(aggregator, self._answered)
        self._linger_seconds = linger_seconds
        self._sweep_seconds = sweep_seconds
        self._claim_idle_ms = round(claim_idle_seconds * 1000)
        self._watch_seconds = watch_seconds
        self._watched = watched
        self._held: set[tuple[int, bytes]] = set()
        # Where to look: shards with new entries; places in the own pending entries,
        # all of them at first; places in everybody's.
        self._new: set[int] = set(range(SHARDS))
        self._pending: dict[int, bytes] = dict.fromkeys(range(SHARDS), FIRST)
        self._stale: dict[int, bytes] = {}
        self._has_work = asyncio.Event()
        self._is_looking = False
        self._lingering: asyncio.TimerHandle | None = None
        self._leaving: dict[int, Leaving] = {}
        self._may_leave = asyncio.Event()

    def notify(self, shards: Iterable[int]) -> None:
        """Say that these shards have new outbox entries; never blocks."""
        self._new.update(shards)
        if self._lingering is None:
            loop = asyncio.get_running_loop()
            self._lingering = loop.call_later(self._linger_seconds, self._wake)

    async def flushed(self) -> None:
        """Return when all that is known to wait is delivered, or the aggregator away.

        What is then left stays in the outbox, for another relay.
        """
        while self._courier.is_connected and (  # noqa: ASYNC110 - once, at the end
            self._held or self._is_looking or self._has_places()
        ):
            await asyncio.sleep(_FLUSH_LOOK_SECONDS)

    def _wake(self) -> None:
        self._lingering = None
        self._has_work.set()

    async def run(self) -> None:
        """Relay until cancelled. Raises when a part of it fails or ends by itself."""
        async with asyncio.TaskGroup() as tasks:
            parts = (self._collect, self._forget, self._courier.run, self._watch)
            for part in parts:
                tasks.create_task(_endless(part))

    async def _watch(self) -> None:
        """Tell how old what waits is: the operator, and the aggregator."""
        while True:
            try:
                standing = await self._outbox.standing()
            except Unavailable as error:
                _log.warning("outbox.failed", reason=str(error))
            else:
                self._watched(standing)
                self._courier.tell(to_pb_watermark(standing))
            await asyncio.sleep(self._watch_seconds)

    async def _collect(self) -> None:
        loop = asyncio.get_running_loop()
        next_sweep = loop.time() + self._pause()
        while True:
            self._has_work.clear()
            if loop.time() >= next_sweep:
                next_sweep = loop.time() + self._pause()
                self._new.update(range(SHARDS))
                if self._courier.is_connected:
                    self._stale = dict.fromkeys(range(SHARDS), FIRST)
            if len(self._held) < MOST_HELD and self._has_places():
                self._is_looking = True  # at what is neither new nor held meanwhile
                try:
                    await self._look()
                except Unavailable as error:
                    _log.warning("outbox.failed", reason=str(error))
                    await asyncio.sleep(_RETRY_SECONDS)
                finally:
                    self._is_looking = False
                continue
            try:
                async with asyncio.timeout_at(next_sweep):
                    await self._has_work.wait()
            except TimeoutError:
                pass

    def _pause(self) -> float:
        # Jitter: the workers' sweeps must not fall together.
        return self._sweep_seconds * random.uniform(0.9, 1.1)  # noqa: S311

    def _has_places(self) -> bool:
        return bool(self._new or self._pending or self._stale)

    async def _look(self) -> None:
        """Read where entries may be, from no more shards than there is room for."""
        room = MOST_HELD - len(self._held)
        count = min(room, BATCH_RECORDS)
        if self._stale:
            look, places = self._claim, self._stale
        elif self._pending:
            look, places = self._read_pending, self._pending
        else:
            look, places = self._read_new, dict.fromkeys(self._new, FIRST)
        chosen = list(islice(places.items(), room // count))
        try:
            await look(chosen, count)
        except Unavailable:
            # Perhaps only the answer is lost: what it handed out is pending then.
            self._pending |= dict.fromkeys((shard for shard, _ in chosen), FIRST)
            raise

    async def _claim(self, places: _Places, count: int) -> None:
        for found in await self._outbox.claim(places, count, self._claim_idle_ms):
            if found.next_id == FIRST:
                self._stale.pop(found.shard, None)
            else:
                self._stale[found.shard] = found.next_id
            if found.has_deleted:
                self._pending[found.shard] = FIRST
            self._take(found.entries)

    async def _read_pending(self, places: _Places, count: int) -> None:
        pages = await self._outbox.read_pending(places, count)
        for (shard, _), entries in zip(places, pages, strict=True):
            if len(entries) < count:
                self._pending.pop(shard, None)
            else:
                self._pending[shard] = entries[-1].entry_id
            self._take(entries)

    async def _read_new(self, places: _Places, count: int) -> None:
        shards = [shard for shard, _ in places]
        # Before the read: what is notified during it needs another look.
        self._new.difference_update(shards)
        try:
            pages = await self._outbox.read_new(shards, count)
        except Unavailable:
            self._new.update(shards)
            raise
        for shard, entries in zip(shards, pages, strict=True):
            if len(entries) == count:
                self._new.add(shard)
            self._take(entries)

    def _take(self, entries: Iterable[Entry]) -> None:
        parcels = []
        for entry in entries:
            place = (entry.shard, entry.entry_id)
            if place in self._held:
                continue
            self._held.add(place)
            if entry.fields is None:
                self._leave(entry)
                continue
            try:
                parcels.append(Parcel(entry, to_pb_record(entry.fields)))
            except ProtocolError as error:
                self._refuse(entry, str(error))
        if parcels:
            self._courier.send(parcels)

    def _answered(self, parcels: Sequence[Parcel], refused: Mapping[str, str]) -> None:
        for parcel in parcels:
            reason = refused.get(parcel.record.record_id) if refused else None
            if reason is None:
                self._leave(parcel.entry)
            else:
                self._refuse(parcel.entry, reason)

    def _leave(self, entry: Entry) -> None:
        self._leaving.setdefault(entry.shard, Leaving()).done.append(entry.entry_id)
        self._may_leave.set()

    def _refuse(self, entry: Entry, reason: str) -> None:
        record_id = (entry.fields or {}).get(b"id", b"").decode(errors="replace")
        _log.error(
            "record.parked", exchange_id=record_id, shard=entry.shard, reason=reason
        )
        leaving = self._leaving.setdefault(entry.shard, Leaving())
        leaving.refused[entry.entry_id] = reason
        self._may_leave.set()

    async def _forget(self) -> None:
        """Remove what has its answer from the outbox; this makes room for more."""
        while True:
            await self._may_leave.wait()
            self._may_leave.clear()
            leaving, self._leaving = self._leaving, {}
            try:
                await self._outbox.forget(leaving)
            except Unavailable as error:
                _log.warning("outbox.failed", reason=str(error))
                for shard, entries in leaving.items():
                    later = self._leaving.setdefault(shard, Leaving())
                    later.done.extend(entries.done)
                    later.refused.update(entries.refused)
                self._may_leave.set()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if len(self._held) >= MOST_HELD:
                self._has_work.set()
            for shard, entries in leaving.items():
                self._held.difference_update(
                    (shard, entry_id) for entry_id in (*entries.done, *entries.refused)
                )


async def _endless(part: Callable[[], Awaitable[None]]) -> None:
    """Run a part that must not end; a TaskGroup would not mind if it did."""
    try:
        await part()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    raise ProtocolError(f"{part.__qualname__} ended by itself")
