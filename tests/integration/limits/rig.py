"""Runs the limiter for tests that are not coroutines, on a clock they move."""

import dataclasses
from typing import Any

import redis as redis_py

from tollhouse.adapters.redis.client import Redis, Script
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.steps import Scripts
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import debits
from tollhouse.core.usage import Facts

START_MS = 1_800_000_000_000
_CLOCK = ("clock:seconds", "clock:microseconds")


def clocked_scripts():
    """The scripts, with the test's clock for Redis' and buckets that don't expire.

    Redis would expire a bucket when it is drained by the real clock.
    """
    real = Scripts.load()
    return Scripts(
        *(
            Script(_clocked(getattr(real, field.name).source))
            for field in dataclasses.fields(Scripts)
        )
    )


def _clocked(source):
    seconds, microseconds = _CLOCK
    for old, new in (
        ("redis.call('TIME')", f"redis.call('MGET', '{seconds}', '{microseconds}')"),
        ("'PX', ttl)", "'PX', 86400000)"),
    ):
        assert 1 == source.count(old)
        source = source.replace(old, new)
    return source


class Rig:
    """A limiter, a plain client beside it, and the clock."""

    def __init__(self, redis, inspector, run):
        self._redis = redis
        self.inspector = inspector
        self.run = run
        self.scripts = clocked_scripts()
        self.now_ms = START_MS

    @classmethod
    async def open(cls, url, run):
        redis = await Redis.connect(url, budget_seconds=2.0)
        return cls(redis, redis_py.Redis.from_url(url), run)

    async def close(self):
        await self._redis.close()
        self.inspector.close()

    def limiter(self, lease_seconds=20.0):
        """A limiter on an empty Redis, at the start of time."""
        self.inspector.flushall()
        self.now_ms = START_MS
        self.move(0)
        return Limiter(self._redis, lease_seconds=lease_seconds, scripts=self.scripts)

    def move(self, ms):
        """Let time pass."""
        self.now_ms += ms
        seconds, rest = divmod(self.now_ms, 1000)
        self.inspector.mset(dict(zip(_CLOCK, (seconds, rest * 1000), strict=True)))


def new_id(number, now_ms=START_MS):
    return exchange_id(now_ms, number.to_bytes(10))


def facts(key, tenant_model, **changes):
    """Facts of an exchange under two allowances."""
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
        "reserved_units": 100,
        "input_estimate": 50,
        "output_estimate": 10,
        "debits": debits(key, tenant_model),
    }
    return Facts(**(plain | changes))
