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

What is granted here is noted beside the ledger first: until Envoy's first line nobody
else knows of it, and Envoy may die before that.
"""

import time
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from tollhouse.adapters.metrics import Metrics, Rung
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.workers import Workers
from tollhouse.core.breaker import Breaker, Permit
from tollhouse.core.catalog import RedisDown
from tollhouse.core.ledger import admission_line
from tollhouse.core.local import LocalLimits
from tollhouse.core.problems import Unavailable
from tollhouse.core.reservation import Granted, Refused, Reservation
from tollhouse.extproc.trail import Trail

_log = structlog.get_logger()

BUDGET_SECONDS = {RedisDown.DEGRADE: 0.05, RedisDown.DENY: 0.25}
"""What a request waits for each script. Who has an answer of our own to fall back on
need not wait for a disk that is busy; who has only 503 should (docs/adr/0007)."""


class Ladder:
    """The limiter of a worker, whether Redis is there or not."""

    def __init__(
        self,
        limiter: Limiter,
        workers: Workers,
        metrics: Metrics,
        *,
        note: Callable[[bytes], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`note` writes a line that the settler reads, so that it outlives us."""
        self._limiter = limiter
        self._workers = workers
        self._metrics = metrics
        self._note = note
        self._clock = clock
        self._local = LocalLimits()
        # One each: what is too slow for one budget may be in time for the other.
        self._plans = {it: _Plans(it) for it in RedisDown}

    async def reserve(
        self, reservation: Reservation, redis_down: RedisDown, trail: Trail
    ) -> Granted | Refused:
        """Take the estimate from every limit at once, or from none.

        Raises Unavailable when only the shared limits may judge and can't, and, not
        transient, when the exchange is over already. The caller refuses then.
        """
        plans = self._plans[redis_down]
        permit = plans.breaker.ask(self._clock())
        if permit is None:
            alone = Unavailable("Redis is left alone")
            return self._without(reservation, plans, alone, trail)
        try:
            verdict = await self._limiter.reserve(
                reservation,
                budget_seconds=BUDGET_SECONDS[redis_down],
                observe=trail.ran,
            )
        except Unavailable as error:
            if not error.transient:
                plans.succeeded(permit, self._clock())
                raise
            if not error.ours:
                plans.failed(permit, self._clock(), error)
            return self._without(reservation, plans, error, trail)
        plans.succeeded(permit, self._clock())
        self._local.remember(reservation, verdict, self._now_ms())
        self._judged(reservation, Rung.SHARED, trail)
        return verdict

    async def release(self, reservation: Reservation, trail: Trail) -> None:
        """Give back all a reservation took, whether it was granted or not.

        Does nothing while Redis is left alone, and may raise Unavailable: the ledger's
        end line, which has no `admitted`, releases it then.
        """
        if not any(plans.breaker.is_open for plans in self._plans.values()):
            await self._limiter.release(reservation, observe=trail.ran)

    def _without(
        self,
        reservation: Reservation,
        plans: "_Plans",
        error: Unavailable,
        trail: Trail,
    ) -> Granted | Refused:
        if plans.redis_down is RedisDown.DENY:
            plans.denied += 1
            self._judged(reservation, Rung.DENIED, trail)
            raise error
        self._judged(reservation, Rung.LOCAL, trail)
        verdict = self._local.reserve(reservation, self._workers.share, self._now_ms())
        if isinstance(verdict, Granted):
            plans.granted += 1
            if reservation.so_far is None:  # else the ledger knows of the exchange
                facts = replace(reservation.facts, debits=verdict.debits)
                self._note(admission_line(reservation.exchange_id, facts))
        else:
            plans.refused += 1
        return verdict

    def _judged(self, reservation: Reservation, by: Rung, trail: Trail) -> None:
        facts = reservation.facts
        trail.rung = by
        self._metrics.judged(by, facts.served_model, facts.plan)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


class _Plans:
    """Where the plans of one kind stand, and what they were told without Redis."""

    def __init__(self, redis_down: RedisDown) -> None:
        self.redis_down = redis_down
        self.breaker = Breaker()
        self.granted = self.refused = self.denied = 0
        self._since = 0.0

    def failed(self, permit: Permit, now: float, error: Unavailable) -> None:
        """Redis did not answer; says so if it is left alone from now on."""
        was_open = self.breaker.is_open
        self.breaker.failed(permit, now)
        if self.breaker.is_open and not was_open:
            self._since = now
            self.granted = self.refused = self.denied = 0
            _log.warning(
                "limits.degraded", redis_down=self.redis_down, reason=str(error)
            )

    def succeeded(self, permit: Permit, now: float) -> None:
        """Redis answered; says so if it was left alone until now."""
        was_open = self.breaker.is_open
        self.breaker.succeeded(permit, now)
        if was_open and not self.breaker.is_open:
            _log.info(
                "limits.restored",
                redis_down=self.redis_down,
                seconds=round(now - self._since, 1),
                granted=self.granted,
                refused=self.refused,
                denied=self.denied,
            )
