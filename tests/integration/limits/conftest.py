"""A limiter on a real Redis whose scripts ask the test what time it is."""

import asyncio

import pytest
import redis as redis_py

from tests.integration.limits.rig import Rig
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.reaper import Reaper


@pytest.fixture
def inspector(redis_url):
    """A plain client to look at keys with."""
    with redis_py.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def redis(redis_url):
    client = await Redis.connect(redis_url, budget_seconds=1.0)
    yield client
    await client.close()


@pytest.fixture
def limiter(redis):
    """On Redis' own clock."""
    return Limiter(redis)


@pytest.fixture
def reaper(redis):
    """On Redis' own clock, too."""
    return Reaper(redis)


@pytest.fixture(scope="module")
def rig(redis_server):
    """On a clock the test moves; without an event loop of its own."""
    with asyncio.Runner() as runner:
        rig = runner.run(Rig.open(redis_server.url, runner.run))
        yield rig
        runner.run(rig.close())
