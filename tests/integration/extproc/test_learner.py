"""What is settled teaches the next estimate, and never holds up settling."""

import asyncio
import contextlib
import json
import tempfile
import time
from pathlib import Path

import pytest
from msgspec import structs
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests import examples
from tests.redis_process import running_redis
from tollhouse.adapters.ledger import LedgerReader
from tollhouse.adapters.meter_provider import with_histograms
from tollhouse.adapters.metrics import Metrics
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.experience import Lessons, Refresher
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.positions import Positions
from tollhouse.adapters.redis.reaper import Reaper
from tollhouse.adapters.redis.shards import outbox, shard
from tollhouse.core.experience import Experience
from tollhouse.core.histogram import EDGES, bin_of
from tollhouse.core.ids import exchange_id
from tollhouse.core.problems import Unavailable
from tollhouse.core.usage import TokenUsage
from tollhouse.extproc.learner import MOST_WAITING, Learner
from tollhouse.extproc.settler import Settler

FACTS = examples.facts(
    reserved_units=1000,
    input_estimate=22,
    output_estimate=64,
    text_bytes=30,
    framing=4,
)
OUTBOX = outbox(shard("acme"))
SOON = 30.0


def line(number, **changes):
    """11 tokens in, 32 out."""
    now_ms = time.time_ns() // 1_000_000
    told = {
        "type": "DownstreamEnd",
        "exchange": exchange_id(now_ms, number.to_bytes(10)),
        "tenant": "acme",
        "admitted": True,
        "facts": FACTS.encode().decode(),
        "meter": "sse,9,7,1,11,32,0,-,0,0,DF,0",
        "started_at": f"{now_ms / 1000:.3f}",
        "duration_ms": 5,
        "code": 200,
        "flags": "-",
        "upstream_host": "h:1",
    }
    return json.dumps(told | changes).encode() + b"\n"


def settlement():
    now_ms = time.time_ns() // 1_000_000
    return examples.settlement(now_ms, facts=FACTS, usage=TokenUsage(11, 32))


class Measured:
    """Metrics, and what they have come to."""

    def __init__(self):
        self._reader = InMemoryMetricReader()
        self.metrics = Metrics(MeterProvider([self._reader]))

    def points(self):
        told = self._reader.get_metrics_data()
        if told is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for scope in with_histograms(told).resource_metrics[0].scope_metrics
            for metric in scope.metrics
        }


@contextlib.asynccontextmanager
async def at_work(redis, path, learner, experience=None):
    """A settler, a learner and a refresher, until the block ends."""
    with LedgerReader(path) as reader:
        settler = Settler(
            reader,
            Positions(redis, "node"),
            Limiter(redis),
            Reaper(redis),
            redis,
            settled=lambda _: None,
            learn=learner.learn,
            tell=lambda *_: None,
        )
        refresher = Refresher(redis, experience or Experience())
        parts = (settler.read, learner.run, refresher.run)
        tasks = [asyncio.create_task(part()) for part in parts]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def within(seconds, condition):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # another task decides
            await asyncio.sleep(0.02)


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger.jsonl"


async def test_a_settled_ledger_teaches(redis, ledger):
    """After 50 exchanges the next is estimated by them; errors taught nothing."""
    measured, experience = Measured(), Experience()
    experience.output("acme", "m")
    ledger.write_bytes(
        b"".join(line(number) for number in range(50))
        + b"".join(line(number, code=500) for number in range(100, 200))
    )

    learner = Learner(Lessons(redis), measured.metrics)
    async with at_work(redis, ledger, learner, experience):
        await within(SOON, lambda: experience.output("acme", "m") is not None)

    assert EDGES[bin_of(32)] == experience.output("acme", "m")
    assert 30 / 7 == experience.bytes_per_token("acme", "m")
    assert (1000 - 171) / 1000 == experience.refund_part("acme", "m")
    points = measured.points()
    assert {("input", 2.0, 50), ("output", 2.0, 50)} == {
        (point.attributes["what"], point.sum / point.count, point.count)
        for point in points["tollhouse.estimate.ratio"]
    }
    (over,) = points["tollhouse.reservation.over"]
    assert (50, 50 * (1000 - 171)) == (over.count, over.sum)


async def test_what_is_wrong_with_one_stops_nobody(redis, ledger):
    """Facts that can't be are settled all the same, and so is what follows."""
    broken = structs.replace(FACTS, choices=0).encode().decode()
    ledger.write_bytes(line(1, facts=broken) + line(2))

    async with at_work(redis, ledger, Learner(Lessons(redis), Metrics())):
        async with asyncio.timeout(SOON):
            while await redis.call("XLEN", OUTBOX) < 2:  # noqa: ASYNC110  # it decides
                await asyncio.sleep(0.02)


async def test_while_redis_is_away_lessons_wait_and_have_a_bound():
    """Nobody is held up by it; what is too much is dropped and counted."""
    measured = Measured()
    with tempfile.TemporaryDirectory(prefix="th-redis-") as folder:
        with running_redis(Path(folder)) as server:
            redis = await Redis.connect(server.url, budget_seconds=1.0)
        learner = Learner(Lessons(redis), measured.metrics)
        learner.learn([settlement()] * (MOST_WAITING + 7))
        await learner.teach()

        with running_redis(Path(folder)):
            async with asyncio.timeout(SOON):
                while not await taught(redis):
                    await learner.teach()
                    await asyncio.sleep(0.02)
        await redis.close()

    (dropped,) = measured.points()["tollhouse.lessons.dropped"]
    assert 7 == dropped.value


async def test_lessons_redis_will_never_take_are_dropped(redis):
    """Somebody's string where a hash belongs; the next ones are not held up."""
    measured = Measured()
    learner = Learner(Lessons(redis), measured.metrics)
    await redis.call("SET", "{m0}:learned:m", "rubbish")
    learner.learn([settlement()] * 3)
    await learner.teach()
    await redis.call("DEL", "{m0}:learned:m")
    learner.learn([settlement()] * 2)
    await learner.teach()

    assert (await redis.call("HGET", "{m0}:learned:m", "output")).startswith(b"2 ")
    (dropped,) = measured.points()["tollhouse.lessons.dropped"]
    assert 3 == dropped.value


async def taught(redis):
    """Whether Redis has lessons; false while it is away."""
    try:
        return await redis.call("EXISTS", "{m0}:learned:m")
    except Unavailable:
        return False
