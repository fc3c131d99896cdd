"""What the aggregator does by the clock: leases, old record ids, its gauges."""

import asyncio
from collections.abc import Callable

import structlog

from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.redis.backlog import Backlogs
from tollhouse.adapters.redis.dedupe import Dedupe
from tollhouse.adapters.redis.leadership import LEASE_SECONDS, Leadership
from tollhouse.core.problems import Unavailable

_FORGET_SECONDS = 600.0
_MEASURE_SECONDS = 15.0
_RETRY_SECONDS = 1.0

_log = structlog.get_logger()


async def lead(leadership: Leadership) -> None:
    """Keep the leases until cancelled."""
    while True:
        before = leadership.shards
        try:
            await leadership.renew()
        except Unavailable as error:
            _log.warning("leases.failed", reason=str(error))
        if before != leadership.shards:
            _log.info("shards.led", shards=leadership.shards)
        await asyncio.sleep(LEASE_SECONDS / 3)


async def forget(dedupe: Dedupe, clock: Callable[[], float]) -> None:
    """Drop record ids nobody can send again, until cancelled."""
    while True:
        try:
            closed = await dedupe.forget(int(clock()))
        except Unavailable as error:
            _log.warning("dedupe.failed", reason=str(error))
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        _log.debug("hours.closed", hour=closed)
        await asyncio.sleep(_FORGET_SECONDS)


async def measure(
    backlogs: Backlogs, metrics: BillingMetrics, clock: Callable[[], float]
) -> None:
    """Keep the gauges true, until cancelled."""
    while True:
        try:
            metrics.waits(await backlogs.look(int(clock())))
        except Unavailable as error:
            _log.warning("backlog.failed", reason=str(error))
        await asyncio.sleep(_MEASURE_SECONDS)
