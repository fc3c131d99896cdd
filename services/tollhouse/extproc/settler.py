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
from tollhouse.adapters.redis.client import Redis, RedisReplyError
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.positions import Positions
from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.ledger import judge, parse
from tollhouse.core.problems import ProtocolError, Unavailable

_log = structlog.get_logger()

_T = TypeVar("_T")

POLL_SECONDS = 0.05
LOCK_SECONDS = 1.0
RETRY_SECONDS = 0.25


class Settler:
    """The loop over one ledger.

    `learn` is handed what was settled; it must neither wait nor raise.
    `grace_seconds` is how long Redis must be back before leases count as expired: two
    beats, so that every settler has told it about the exchanges that still run.
    """

    def __init__(
        self,
        reader: LedgerReader,
        positions: Positions,
        limiter: Limiter,
        redis: Redis,
        settled: Callable[[set[int]], None],
        *,
        learn: Callable[[Sequence[Settlement]], None],
        reap_seconds: float = 5.0,
        grace_seconds: float = 10.0,
    ) -> None:
        self._reader = reader
        self._positions = positions
        self._limiter = limiter
        self._redis = redis
        self._settled = settled
        self._learn = learn
        self._reap_seconds = reap_seconds
        self._grace_seconds = grace_seconds
        self._caught_up = False

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
            try:
                shards = await self._limiter.reap_expired()
            except Unavailable as error:
                _log.warning("reap.failed", reason=str(error))
            except RedisReplyError as error:
                # Of one exchange; the others that were looked at are done.
                _log.error("reap.failed", reason=error.code)
            else:
                self._settled(shards)

    async def _settle(self, lines: list[bytes]) -> None:
        releases: list[Release] = []
        beats: list[Beat] = []
        settlements: list[Settlement] = []
        for raw in lines:
            try:
                entry = judge(parse(raw))
            except ProtocolError as error:
                # Text we can't read names no exchange; its lease expires and it is
                # reaped, so it is still billed once.
                _log.error("line.misread", reason=str(error), bytes=len(raw))
                continue
            match entry:
                case Release():
                    releases.append(entry)
                case Beat():
                    beats.append(entry)
                case Settlement():
                    settlements.append(entry)
        try:
            await self._apply(releases, beats, settlements)
        except RedisReplyError as error:
            _log.error("lines.failed", reason=error.code)
            # A key somebody broke, of one tenant as a rule: it must not stand in the
            # way of all the others, so each line is tried alone.
            for release in releases:
                await self._apply_alone(release.exchange_id, [release], [], [])
            for beat in beats:
                await self._apply_alone(beat.exchange_id, [], [beat], [])
            for settlement in settlements:
                await self._apply_alone(settlement.exchange_id, [], [], [settlement])
        self._learn(settlements)

    async def _apply(
        self,
        releases: Sequence[Release],
        beats: Sequence[Beat],
        settlements: Sequence[Settlement],
    ) -> None:
        self._settled(
            await self._until_available(
                lambda: self._limiter.apply(releases, beats, settlements)
            )
        )

    async def _apply_alone(
        self,
        exchange_id: str,
        releases: Sequence[Release],
        beats: Sequence[Beat],
        settlements: Sequence[Settlement],
    ) -> None:
        try:
            await self._apply(releases, beats, settlements)
        except RedisReplyError as error:
            _log.error("line.failed", exchange_id=exchange_id, reason=error.code)

    async def _until_available(self, step: Callable[[], Awaitable[_T]]) -> _T:
        while True:
            try:
                return await step()
            except Unavailable as error:
                self._caught_up = False
                _log.warning("ledger.stalled", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
