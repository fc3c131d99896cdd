"""A real Redis is asked, and what it says is understood."""

import asyncio

from pydantic_settings import BaseSettings

from tests.integration.redis_access.tls_redis import until
from tests.measured import Measured
from tests.redis_process import running_redis
from tollhouse.adapters.dependency_metrics import watch_dependencies
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.vitals import Trouble, VitalsWatch


async def test_a_redis_that_may_evict():
    options = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    with running_redis(options=options) as server:
        redis = await Redis.connect(server.url, budget_seconds=1.0)
        watch = VitalsWatch(redis)
        await watch.look()
        (seen,) = watch.latest
        await redis.close()
        await watch.look()

    assert str(server.socket_path) == seen.server
    assert 64 << 20 == seen.most_bytes
    assert 100_000 < seen.used_bytes < 64 << 20
    assert (0, 0, 0) == (seen.evicted, seen.rejected, seen.replicas)
    assert frozenset({Trouble.EVICTION}) == seen.troubles
    assert seen.certificate_ends is None
    assert [] == watch.latest


async def test_who_exports_asks(redis):
    measured = Measured()
    (watch,) = watch_dependencies(measured.provider, BaseSettings(), redis)
    asking = asyncio.create_task(watch())
    await until(lambda: "tollhouse.redis.memory.used" in measured.points())
    asking.cancel()


async def test_who_exports_nothing_asks_nothing(redis):
    assert () == watch_dependencies(None, BaseSettings(), redis)
