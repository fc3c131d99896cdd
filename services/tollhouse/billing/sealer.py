"""The sealer: freezes what windows have not shipped into chunks, when it is due.

The customer is looked up here and not before: a tenant that gets one later loses
nothing, its windows wait unsealed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence

import structlog

from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.redis.chunks import Chunks
from tollhouse.adapters.redis.leadership import Leadership
from tollhouse.core.chunk import Account
from tollhouse.core.problems import Unavailable
from tollhouse.core.windows import Cadence, Position

ROWS_AT_ONCE = 100
"""Per shard and look; more are looked for at once."""

_LOOK_SECONDS = 1.0

_log = structlog.get_logger()

Accounts = Callable[[Sequence[str]], Awaitable[Mapping[str, Account]]]
"""Finds the accounts of tenants; those without one are left out."""


class Sealer:
    """The loop over rows that are due in the shards this process leads."""

    def __init__(
        self,
        chunks: Chunks,
        leadership: Leadership,
        accounts: Accounts,
        clock: Callable[[], float],
        *,
        cadence: Cadence,
        metrics: BillingMetrics,
    ) -> None:
        self._chunks = chunks
        self._leadership = leadership
        self._accounts = accounts
        self._clock = clock
        self._cadence = cadence
        self._metrics = metrics
        self._unlinked: set[str] = set()

    async def run(self) -> None:
        """Seal until cancelled."""
        while True:
            try:
                is_done = await self.look()
            except Unavailable as error:
                _log.warning("seal.failed", reason=str(error))
                is_done = True
            if is_done:
                await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> bool:
        """Seal what is due; whether that was all. Raises Unavailable."""
        shards = self._leadership.shards
        if not shards:
            self._unlinked.clear()
            self._metrics.unlinked(0)
            return True
        now = int(self._clock())
        rows = await self._chunks.due_rows(shards, now, ROWS_AT_ONCE)
        tenants = sorted({row.tenant for row in rows})
        accounts = await self._accounts(tenants) if tenants else {}
        next_due = self._cadence.after(now)
        for row in rows:
            account = accounts.get(row.tenant)
            if account is None:
                await self._chunks.postpone(row, now=now, next_due=next_due)
            else:
                await self._seal(row, account, now, next_due)
        if rows:
            self._tell_unlinked(tenants, accounts)
        return len(rows) < ROWS_AT_ONCE

    def _tell_unlinked(self, tenants: Sequence[str], accounts: Container[str]) -> None:
        """Say whose hours stay unbilled until somebody links them."""
        unlinked = [it for it in tenants if it not in accounts]
        self._unlinked.difference_update(tenants)
        self._unlinked.update(unlinked)
        self._metrics.unlinked(len(self._unlinked))
        if unlinked:
            _log.error("tenants.unlinked", tenants=unlinked[:20], count=len(unlinked))

    async def _seal(
        self, row: Position, account: Account, now: int, next_due: int
    ) -> None:
        letters = await self._chunks.seal(row, account, now=now, next_due=next_due)
        if "S" in letters:
            _log.info(
                "row.sealed",
                tenant=row.tenant,
                model=row.model,
                hour=row.hour,
                chunks=letters.count("S"),
            )
