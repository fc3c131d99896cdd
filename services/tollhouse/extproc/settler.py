"""Turns ledger lines into settlements, and expired leases into records.

One settler per Envoy is at work, whoever holds the ledger's lock. Its position is
committed after the lines are done, so a settler that is killed repeats, and while
Redis is away it stands still: the ledger is the spool.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from tollhouse.adapters.ledger import LedgerReader
from tollhouse.adapters.metrics import Fault
from tollhouse.adapters.redis.client import Redis, RedisReplyError
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.positions import Positions
from tollhouse.adapters.redis.reaper import Reaper
from tollhouse.adapters.redis.shards import shard
from tollhouse.core.ending import Ending, ending, reaped
from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.ledger import judge, parse
from tollhouse.core.problems import ProtocolError, Unavailable

_log = structlog.get_logger()

_T = TypeVar("_T")

Tell = Callable[[Sequence[Ending], int, int], None]
"""Is handed what ended, and from when until when Redis was told of it (Unix ns)."""

POLL_SECONDS = 0.05
LOCK_SECONDS = 1.0
RETRY_SECONDS = 0.25
RECENT_SECONDS = 300.0
"""What ended no longer ago is taken for news where Redis' answer was lost."""
TOLD_AT_ONCE = 32
"""Of a backlog: a few milliseconds of the worker's event loop."""


class Settler:
    """The loop over one ledger.

    `settled` is handed the slots whose outboxes got records, `learn` what was settled
    and is news, `tell` all that ended and is news, `faulty` what was wrong with a line;
    they must neither wait nor raise.
    `grace_seconds` is how long Redis must be back before leases count as expired: two
    beats, so that every settler has told it about the exchanges that still run.
    """

    def __init__(
        self,
        reader: LedgerReader,
        positions: Positions,
        limiter: Limiter,
        reaper: Reaper,
        redis: Redis,
        *,
        settled: Callable[[set[int]], None],
        learn: Callable[[Sequence[Settlement]], None],
        tell: Tell,
        faulty: Callable[[Fault], None] = lambda _: None,
        reap_seconds: float = 5.0,
        grace_seconds: float = 10.0,
    ) -> None:
        self._reader = reader
        self._positions = positions
        self._limiter = limiter
        self._reaper = reaper
        self._redis = redis
        self._settled = settled
        self._learn = learn
        self._tell = tell
        self._faulty = faulty
        self._reap_seconds = reap_seconds
        self._grace_seconds = grace_seconds
        self._caught_up = False
        self._at_end = asyncio.Event()

    async def settled(self) -> None:
        """Return when what stands in the ledger now is settled, while `read` runs.

        At once where another process reads it: that one has to be asked.
        """
        if not self._reader.lock():
            return
        self._at_end.clear()
        await self._at_end.wait()

    async def read(self) -> None:
        """Follow the ledger for as long as the process lives."""
        while not self._reader.lock():  # noqa: ASYNC110  # the kernel wakes nobody
            await asyncio.sleep(LOCK_SECONDS)
        self._reader.seek(await self._until_available(self._positions.load))
        _log.info("ledger.opened", lag=self._reader.lag())
        while True:
            lines = self._reader.read()
            if lines:
                self._caught_up = False
                await self._settle(lines)
                await self._until_available(self._save)
            else:
                self._caught_up = True
                self._at_end.set()
                await asyncio.sleep(POLL_SECONDS)

    async def _save(self) -> None:
        positions = self._reader.uncommitted()
        await self._positions.save(positions)
        self._reader.commit(positions)

    async def reap(self) -> None:
        """Close exchanges whose Envoy is gone, once our own ledger is read."""
        while True:
            await asyncio.sleep(self._reap_seconds)
            since = self._redis.connected_since
            if not self._caught_up or since is None:
                continue
            if time.monotonic() - since < self._grace_seconds:
                continue
            started_ns = time.time_ns()
            try:
                closed = await self._reaper.reap_expired()
            except Unavailable as error:
                _log.warning("reap.failed", reason=str(error))
            except RedisReplyError as error:
                # Of one exchange; the others that were looked at are done.
                _log.error("reap.failed", reason=error.code)
            else:
                self._notify(closed)
                self._tell(list(map(reaped, closed)), started_ns, time.time_ns())

    async def _settle(self, lines: list[bytes]) -> None:
        releases: list[Release] = []
        beats: list[Beat] = []
        settlements: list[Settlement] = []
        ended: list[Ending] = []
        for raw in lines:
            try:
                line = parse(raw)
                entry = judge(line)
            except ProtocolError as error:
                # Text we can't read names no exchange; its lease expires and it is
                # reaped, so it is still billed once.
                _log.error("line.misread", reason=str(error), bytes=len(raw))
                self._faulty(Fault.MISREAD)
                continue
            match entry:
                case Release():
                    releases.append(entry)
                    ended.append(ending(line, entry))
                case Beat():
                    beats.append(entry)
                case Settlement():
                    settlements.append(entry)
                    ended.append(ending(line, entry))
        started_ns = time.time_ns()
        new = await self._apply_all(releases, beats, settlements)
        self._learn([it for it in settlements if it.exchange_id in new])
        news = [it for it in ended if it.settlement is None or it.exchange_id in new]
        ended_ns = time.time_ns()
        for at in range(0, len(news), TOLD_AT_ONCE):
            if at:
                await asyncio.sleep(0)
            self._tell(news[at : at + TOLD_AT_ONCE], started_ns, ended_ns)

    async def _apply_all(
        self,
        releases: Sequence[Release],
        beats: Sequence[Beat],
        settlements: Sequence[Settlement],
    ) -> set[str]:
        """Return the ids of those that were not settled before, as far as is known."""
        recent = _recent(settlements)
        try:
            return await self._apply(releases, beats, settlements)
        except RedisReplyError as error:
            _log.error("lines.failed", reason=error.code)
        # A key somebody broke, of one tenant as a rule: it must not stand in the way of
        # all the others, so each line is tried alone.
        for release in releases:
            await self._apply_alone(release.exchange_id, [release], [], [])
        for beat in beats:
            await self._apply_alone(beat.exchange_id, [], [beat], [])
        new = recent
        for settlement in settlements:
            id_ = settlement.exchange_id
            new |= await self._apply_alone(id_, [], [], [settlement])
        return new

    async def _apply(
        self,
        releases: Sequence[Release],
        beats: Sequence[Beat],
        settlements: Sequence[Settlement],
    ) -> set[str]:
        tries = 0
        recent = _recent(settlements)

        async def apply() -> list[Settlement]:
            nonlocal tries
            tries += 1
            return await self._limiter.apply(releases, beats, settlements)

        written = await self._until_available(apply)
        self._notify(written)
        new = {it.exchange_id for it in written}
        # Nobody knows what a try wrote whose answer was lost. What had just ended then
        # was news; of what is read again later a few are rather missed than repeated.
        return new if tries == 1 else new | recent

    async def _apply_alone(
        self,
        exchange_id: str,
        releases: Sequence[Release],
        beats: Sequence[Beat],
        settlements: Sequence[Settlement],
    ) -> set[str]:
        try:
            return await self._apply(releases, beats, settlements)
        except RedisReplyError as error:
            _log.error("line.failed", exchange_id=exchange_id, reason=error.code)
            self._faulty(Fault.FAILED)
            return set()

    def _notify(self, written: Sequence[Settlement]) -> None:
        self._settled({shard(it.facts.tenant) for it in written})

    async def _until_available(self, step: Callable[[], Awaitable[_T]]) -> _T:
        while True:
            try:
                return await step()
            except Unavailable as error:
                self._caught_up = False
                _log.warning("ledger.stalled", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)


def _recent(settlements: Sequence[Settlement]) -> set[str]:
    """Ids of what ended within the last minutes; ask before the first try to settle."""
    oldest_ms = (time.time() - RECENT_SECONDS) * 1000
    return {it.exchange_id for it in settlements if it.ended_ms >= oldest_ms}
