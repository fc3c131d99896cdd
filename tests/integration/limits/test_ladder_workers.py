"""Who shares the limits: workers that live are counted, each has its turn."""

import asyncio
import contextlib
import itertools

import pytest
import structlog

from tests.redis_process import running_redis
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.workers import ALIVE_MS, LOOKS, WORKERS, Workers
from tollhouse.core.local import Share


@contextlib.asynccontextmanager
async def beating(workers):
    task = asyncio.create_task(workers.beat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def fleet(redis, number, **settings):
    return [Workers(redis, f"node/w{it}", **settings) for it in range(number)]


async def test_each_worker_has_a_turn_of_its_own(redis):
    workers = fleet(redis, 12)
    for _, worker in itertools.product(range(2), workers):
        await worker._beat()

    assert {Share(turn, 12) for turn in range(12)} == {it.share for it in workers}


async def test_alone_until_others_are_seen(redis):
    """But never fewer than there are at least."""
    (alone,) = fleet(redis, 1)
    (cautious,) = fleet(redis, 1, minimum=4)

    assert (Share(0, 1), Share(0, 4)) == (alone.share, cautious.share)
    await cautious._beat()
    assert Share(0, 4) == cautious.share


@pytest.mark.timed
async def test_signs_of_life_are_in_redis_time_and_expire(redis, inspector):
    """A worker that was killed is counted a few seconds more, no longer."""
    (mine,) = fleet(redis, 1)
    await mine._beat()
    seconds, _ = inspector.time()
    ((name, at_ms),) = inspector.zrange(WORKERS, 0, -1, withscores=True)
    assert b"node/w0" == name
    assert seconds * 1000 == pytest.approx(at_ms, abs=1500)
    inspector.zadd(
        WORKERS, {"killed": at_ms - ALIVE_MS + 500, "dead": at_ms - ALIVE_MS}
    )
    await mine._beat()

    assert Share(1, 2) == mine.share, "the turn is the place among the names"
    await asyncio.sleep(0.6)
    for _ in range(LOOKS):
        await mine._beat()
    assert Share(0, 1) == mine.share
    assert [b"node/w0"] == inspector.zrange(WORKERS, 0, -1)


async def test_a_worker_that_stops_says_goodbye(redis, inspector):
    one, two = fleet(redis, 2)
    async with beating(one):
        async with beating(two):
            async with asyncio.timeout(30):
                while one.share.workers != 2 or two.share.workers != 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert [b"node/w0"] == inspector.zrange(WORKERS, 0, -1)

    assert 0 == inspector.exists(WORKERS)


async def test_the_last_share_is_kept_while_redis_is_away_and_when_it_is_back():
    """The first to return finds nobody else: it must not take all for itself."""
    with structlog.testing.capture_logs() as logs, running_redis() as server:
        redis = await Redis.connect(server.url, budget_seconds=1.0)
        workers = fleet(redis, 3)
        for _, worker in itertools.product(range(2), workers):
            await worker._beat()
        shares = [it.share for it in workers]
        server.ask("CLIENT", "PAUSE", 1200)
        await workers[0]._beat()
        assert shares[0] == workers[0].share
        server.ask("FLUSHALL")
        for _ in range(LOOKS - 1):
            await workers[1]._beat()
            assert shares[1] == workers[1].share
        async with beating(workers[2]):
            server.process.kill()
            server.process.wait()
            await asyncio.sleep(0.1)
        assert shares[2] == workers[2].share
        await redis.close()

    assert {"workers.counted"} == {it["event"] for it in logs}
