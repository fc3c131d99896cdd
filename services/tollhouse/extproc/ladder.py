"""Reserves from the shared limits while Redis answers, and by rungs below when not.

    0  Redis answers                  the shared limits judge
    1  one call fails                 no retry; `degrade`: this worker's part of the
                                      limits judges this request, `deny`: 503
    2  the breaker is open            as 1 without a call, but for one probe a pause
    0  a probe is answered            the shared limits judge again

A call that failed may have been applied. Granted here, the exchange is settled from
the ledger like any other, under the same id: what RESERVE took is then corrected, what
it did not take is charged. Refused here, its end line has no `admitted`, and that
releases it: the ledger outlives us and Redis, a release of our own would not.
"""

import time
from collections.abc import Callable

import structlog

from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.workers import Workers
from tollhouse.core.breaker import Breaker, Permit
from tollhouse.core.catalog import RedisDown
from tollhouse.core.local import LocalLimits
from tollhouse.core.problems import Unavailable
from tollhouse.core.reservation import Granted, Refused, Reservation

_log = structlog.get_logger()


class Ladder:
    """The limiter of a worker, whether Redis is there or not."""

    def __init__(
        self,
        limiter: Limiter,
        workers: Workers,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limiter = limiter
        self._workers = workers
        self._clock = clock
        self._breaker = Breaker()
        self._local = LocalLimits()
        self._away = _Away(0.0)

    async def reserve(
        self, reservation: Reservation, redis_down: RedisDown
    ) -> Granted | Refused:
        """Take the estimate from every limit at once, or from none.

        Raises Unavailable when only the shared limits may judge and can't, and, not
        transient, when the exchange is over already. The caller refuses then.
        """
        permit = self._breaker.ask(self._clock())
        if permit is None:
            return self._without(reservation, redis_down)
        try:
            verdict = await self._limiter.reserve(reservation)
        except Unavailable as error:
            if not error.transient:
                self._succeeded(permit)
                raise
            if not error.ours:
                self._failed(permit, error)
            return self._without(reservation, redis_down, error)
        self._succeeded(permit)
        self._local.remember(reservation, verdict, self._now_ms())
        return verdict

    async def release(self, reservation: Reservation) -> None:
        """Give back all a reservation took, whether it was granted or not.

        Does nothing while Redis is left alone, and may raise Unavailable: the ledger's
        end line, which has no `admitted`, releases it then.
        """
        if not self._breaker.is_open:
            await self._limiter.release(reservation)

    def _without(
        self,
        reservation: Reservation,
        redis_down: RedisDown,
        error: Unavailable | None = None,
    ) -> Granted | Refused:
        if redis_down is RedisDown.DENY:
            self._away.denied += 1
            raise error or Unavailable("Redis is left alone")
        verdict = self._local.reserve(reservation, self._workers.share, self._now_ms())
        if isinstance(verdict, Granted):
            self._away.granted += 1
        else:
            self._away.refused += 1
        return verdict

    def _failed(self, permit: Permit, error: Unavailable) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed(permit, self._clock())
        if self._breaker.is_open and not was_open:
            self._away = _Away(self._clock())
            workers = self._workers.share.workers
            _log.warning("limits.degraded", reason=str(error), workers=workers)

    def _succeeded(self, permit: Permit) -> None:
        was_open = self._breaker.is_open
        self._breaker.succeeded(permit)
        if was_open and not self._breaker.is_open:
            away = self._away
            _log.info(
                "limits.restored",
                seconds=round(self._clock() - away.since, 1),
                granted=away.granted,
                refused=away.refused,
                denied=away.denied,
            )

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


class _Away:
    """What was answered without Redis since the breaker opened."""

    __slots__ = ("denied", "granted", "refused", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.granted = self.refused = self.denied = 0
