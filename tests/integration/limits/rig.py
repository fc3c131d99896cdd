"""Runs the limiter for tests that are not coroutines, on a clock they move."""

from typing import Any

import redis as redis_py

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.reaper import Reaper
from tollhouse.adapters.redis.steps import Scripts
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Limit
from tollhouse.core.reservation import Reservation
from tollhouse.core.usage import Facts

START_MS = 1_800_000_000_000
_CLOCK = "simulated-clock"
_SCRIPTS = Scripts.load(clock="simulated_clock.lua")


class Rig:
    """A limiter, a plain client beside it, and the clock."""

    def __init__(self, redis, inspector, run):
        self._redis = redis
        self.inspector = inspector
        self.run = run
        self.now_ms = START_MS

    @classmethod
    async def open(cls, url, run):
        redis = await Redis.connect(url, budget_seconds=2.0)
        return cls(redis, redis_py.Redis.from_url(url), run)

    async def close(self):
        await self._redis.close()
        self.inspector.close()

    def limiter(self, lease_seconds=20.0, now_ms=START_MS):
        """A limiter on an empty Redis, at the start of time."""
        self.inspector.flushall()
        self.now_ms = now_ms
        self.move(0)
        return Limiter(self._redis, lease_seconds=lease_seconds, scripts=_SCRIPTS)

    @property
    def reaper(self):
        """A reaper on the same clock."""
        return Reaper(self._redis, scripts=_SCRIPTS)

    def move(self, ms):
        """Let time pass."""
        self.now_ms += ms
        self.inspector.set(_CLOCK, self.now_ms)

    def reserve(self, limiter, reservation):
        """Reserve, and wait until what a refusal gives back is given back."""

        async def reserve():
            try:
                return await limiter.reserve(reservation)
            finally:
                await limiter.close()

        return self.run(reserve())


def new_id(number, now_ms=START_MS):
    return exchange_id(now_ms, number.to_bytes(10))


def facts(**changes):
    """Facts as admission makes them; they cost 100 units and 220 of money."""
    plain: dict[str, Any] = {
        "tenant": "acme",
        "key_id": "k1",
        "plan": "demo",
        "operation": "chat",
        "requested_model": "m1",
        "served_model": "m1",
        "cluster": "c1",
        "provider": "triton",
        "weights": (1, 0, 5),
        "prices": (3, 1, 7),
        "reserved_units": 100,
        "input_estimate": 50,
        "output_estimate": 10,
    }
    return Facts(**(plain | changes))


def ask(id_: str, *limits: Limit, **changes: Any) -> Reservation:
    """A reservation; `changes` are of its facts."""
    return Reservation(id_, facts(**changes), limits)


def shards_of(written):
    """The shards whose outbox got records of these settlements."""
    return {shards.shard(it.facts.tenant) for it in written}
