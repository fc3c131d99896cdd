"""What the scripts of an exchange cost Redis, by how many limits it has.

    PYTHONPATH=.:services .venv/bin/python -m bench.limits_script [exchanges]

Reserves and settles on a redis-server of its own, without persistence; prints Markdown:
microseconds in Redis per RESERVE and per SETTLE, from INFO commandstats.
"""

import asyncio
import os
import sys
import time
from itertools import islice

import redis as redis_py
import uvloop
from msgspec.structs import replace

from tests.redis_process import running_redis
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.core.exchange import Settlement
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Allowance, Limit, Scope
from tollhouse.core.reservation import Granted, Reservation
from tollhouse.core.usage import CountSource, Facts, TokenUsage, UsageKind

EXCHANGES = 10_000
AT_ONCE = 50
"""Exchanges that are open together."""
ROOMY = 10**8

KEY = Allowance(ROOMY, ROOMY, ROOMY).limits(Scope.KEY, "UTC")
TENANT = Allowance(*(ROOMY, ROOMY, ROOMY), *(10**12, 10**12, 10**15, 10**15)).limits(
    Scope.TENANT, "Europe/Berlin"
)
ALL = (*KEY, *TENANT)


def facts(number: int) -> Facts:
    """Facts as admission makes them, of one of a hundred keys."""
    return Facts(
        tenant="acme",
        key_id=f"k{number % 100:011}",
        plan="standard",
        operation="chat",
        requested_model="llama-3-8b",
        served_model="llama-3-8b",
        cluster="llama-3-8b",
        provider="triton",
        weights=(1, 0, 5),
        prices=(2000, 200, 6000),
        reserved_units=1100,
        input_estimate=100,
        output_estimate=200,
        text_bytes=400,
        framing=12,
        output_cap=512,
    )


def settlement(reservation: Reservation, granted: Granted) -> Settlement:
    """It took less than was reserved."""
    now_ms = time.time_ns() // 1_000_000
    return Settlement(
        exchange_id=reservation.exchange_id,
        facts=replace(reservation.facts, debits=granted.debits),
        kind=UsageKind.FINAL,
        usage=TokenUsage(95, 130, 20),
        input_source=CountSource.BACKEND,
        output_source=CountSource.BACKEND,
        started_ms=now_ms - 900,
        first_ms=now_ms - 700,
        ended_ms=now_ms,
        flags="",
    )


class Watch:
    """Microseconds Redis spends in scripts."""

    def __init__(self, url: str) -> None:
        self._redis = redis_py.Redis.from_url(url)
        self._before = self._spent()

    def _spent(self) -> float:
        spent = self._redis.info("commandstats").get("cmdstat_evalsha", {})
        return float(spent.get("usec", 0))

    def lap(self) -> float:
        """What was spent since it was last asked."""
        now = self._spent()
        spent, self._before = now - self._before, now
        return spent


async def measure(url: str, limits: tuple[Limit, ...], count: int) -> tuple[float, ...]:
    """Microseconds of Redis per RESERVE and per SETTLE."""
    redis = await Redis.connect(url, budget_seconds=5)
    limiter, watch = Limiter(redis), Watch(url)
    spent = [0.0, 0.0]
    for start in range(0, count, AT_ONCE):
        now_ms = time.time_ns() // 1_000_000
        asked = [
            Reservation(exchange_id(now_ms, os.urandom(10)), facts(number), limits)
            for number in range(start, start + AT_ONCE)
        ]
        answers = await asyncio.gather(*(limiter.reserve(it) for it in asked))
        spent[0] += watch.lap()
        ended = [
            settlement(reservation, answer)
            for reservation, answer in zip(asked, answers, strict=True)
            if isinstance(answer, Granted)
        ]
        if len(ended) < AT_ONCE:
            raise SystemExit("a limit is too narrow for this")
        await limiter.settle_many(ended)
        spent[1] += watch.lap()
    await redis.close()
    return tuple(it / count for it in spent)


def main() -> None:
    """Print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EXCHANGES
    print("| limits | RESERVE, µs | SETTLE, µs | together |")
    print("|---|---|---|---|")
    for dimensions in (2, 5, 10):
        limits = tuple(islice(ALL, dimensions))
        with (
            running_redis() as server,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            reserve, settle = runner.run(measure(server.url, limits, count))
        print(
            f"| {dimensions} | {reserve:.1f} | {settle:.1f} | {reserve + settle:.1f} |"
        )


if __name__ == "__main__":
    main()
