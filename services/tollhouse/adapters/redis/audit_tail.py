"""The audit log as it grows, for a process that tells others of it."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
import structlog

from tollhouse.adapters.redis.audit import AuditEntry, to_entry
from tollhouse.adapters.redis.records import AUDIT

_BATCH = 500
_WAIT_MS = 1000
# Longer, and the connection is dead without having said so.
_ANSWER_SECONDS = 3.0
_PAUSE_SECONDS = 0.5

_log = structlog.get_logger()


class AuditTail:
    """Passes on each entry written from now on, once and in order.

    A connection that is lost loses none: reading goes on behind the last entry.
    """

    def __init__(
        self,
        connect: Callable[[], "redis.asyncio.Redis"],
        told: Callable[[AuditEntry], None],
    ) -> None:
        self._connect = connect
        self._told = told
        self._last: str | None = None
        self._is_lost = False

    async def begin(self) -> None:
        """Tell what is written from now on; without Redis, from when it is back."""
        with contextlib.suppress(redis.RedisError, OSError):
            async with self._connect() as client:
                await self._find_end(client)

    async def run(self) -> None:
        """Follow the log until cancelled; never returns."""
        while True:
            try:
                async with self._connect() as client:
                    await self._follow(client)
            except (redis.RedisError, OSError) as error:
                if not self._is_lost:
                    self._is_lost = True
                    # The kind only: the text may quote what the server was sent.
                    _log.warning("audit.lost", reason=type(error).__name__)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _find_end(self, client: Any) -> None:
        async with asyncio.timeout(_ANSWER_SECONDS):
            newest = await client.xrevrange(AUDIT, count=1)
        self._last = newest[0][0] if newest else "0-0"

    async def _follow(self, client: Any) -> None:
        if self._last is None:
            await self._find_end(client)
        while True:
            async with asyncio.timeout(_ANSWER_SECONDS):
                replies = await client.xread(
                    {AUDIT: self._last}, count=_BATCH, block=_WAIT_MS
                )
            if self._is_lost:
                self._is_lost = False
                _log.info("audit.returned")
            for _, entries in replies or ():
                for id_, fields in entries:
                    self._told(to_entry(id_, fields))
                    self._last = id_
