"""What is settled is learned: by learn.lua, over all replicas, by those who ask."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterable
from itertools import chain

import pytest
import redis as redis_py
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import examples
from tests.redis_process import running_redis
from tollhouse.adapters.redis import experience as refresher_module
from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.experience import KEPT_MS, Lessons, Refresher
from tollhouse.core.catalog import Operation, Policy, Weights
from tollhouse.core.estimate import estimate
from tollhouse.core.experience import Cohort, Experience, Ratio
from tollhouse.core.histogram import EDGES, Histogram, bin_of
from tollhouse.core.ids import exchange_id
from tollhouse.core.lesson import Lesson
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.problems import Unavailable
from tollhouse.core.request import parse
from tollhouse.core.reservation import Granted, Reservation

MODEL = examples.model(weights=Weights(1, 0, 1))
COHORTS = [Cohort("acme", "m"), Cohort("acme", ""), Cohort("", "m")]
SOON = 30.0


def taught(output=32, *, tenant="acme", is_cut=False, duration_ms=900, **ratios):
    text = ratios.get("text", Ratio(1, 10, 45))
    refund = ratios.get("refund", Ratio(1, 30, 100))
    return Lesson(tenant, "m", output, is_cut, duration_ms, text, refund)


async def within(seconds, condition):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # another task decides
            await asyncio.sleep(0.01)


def upper_edge(value):
    return EDGES[bin_of(value)]


class Reference:
    """One cohort as the pure code keeps it."""

    def __init__(self):
        self.output = Histogram()
        self.duration = Histogram()
        self.text: Ratio | None = None
        self.refund: Ratio | None = None

    def add(self, lessons: Iterable[Lesson]):
        told = [it for it in lessons if it.output]
        self.output.add(
            Counter(bin_of(it.output) for it in told if not it.is_cut),
            Counter(bin_of(it.output) for it in told if it.is_cut),
        )
        self.duration.add(Counter(bin_of(it.duration_ms) for it in lessons), {})
        self.text = _added(self.text, [it.text for it in lessons])
        self.refund = _added(self.refund, [it.refund for it in lessons])

    def fields(self):
        """As learn.lua lays them out."""
        kept: dict[str, str] = {}
        for name, histogram in (("output", self.output), ("duration", self.duration)):
            if histogram.weights:
                samples, median, high = histogram.quantiles()
                kept[name] = f"{samples} {bin_of(median)} {bin_of(high)}"
                weights = ",".join(map(str, histogram.weights))
                kept[f"{name}:weights"] = f"[{weights}]"
        for name, ratio in (("text", self.text), ("refund", self.refund)):
            if ratio is not None:
                kept[name] = " ".join(map(str, ratio))
        return kept


def _added(known, ratios):
    told = [ratio for ratio in ratios if ratio is not None]
    if not told:
        return known
    return (known or Ratio()).add(Ratio(*map(sum, zip(*told, strict=True))))


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def teaching(redis_server, runner):
    """A function that empties Redis, teaches batch after batch, and reads a cohort."""
    redis = runner.run(_connect(redis_server.url))
    inspector = redis_py.Redis.from_url(redis_server.url, decode_responses=True)
    lessons = Lessons(redis)

    def teach(batches, cohort):
        inspector.flushall()
        for batch in batches:
            runner.run(lessons.teach(batch))
        return inspector.hgetall(shards.learned(*cohort))

    yield teach
    runner.run(redis.close())
    inspector.close()


async def _connect(url):
    return await Redis.connect(url, budget_seconds=1.0)


numbers = st.one_of(st.integers(0, 60), st.integers(0, 2 * 10**9))
ratios = st.none() | st.builds(
    Ratio, st.just(1), st.integers(0, 10**6), st.integers(0, 10**7)
)
lessons = st.builds(
    lambda output, is_cut, duration_ms, text, refund, times: (
        [Lesson("acme", "m", output, is_cut, duration_ms, text, refund)] * times
    ),
    numbers,
    st.booleans(),
    numbers,
    ratios,
    ratios,
    st.sampled_from([1, 1, 3, 40, 1999]),
)
batches = st.lists(
    st.lists(lessons, min_size=1, max_size=6).map(lambda some: list(chain(*some))),
    min_size=1,
    max_size=6,
)


RARE, OFTEN = taught(9999, duration_ms=9999), taught(10, duration_ms=10)


@given(batches=batches)
@example(batches=[[RARE], [RARE], *[[OFTEN] * 2000] * 7])  # a bin that fades away
@example(batches=[[taught(output) for output in range(1, 11)]])  # ranks in between
@example(batches=[[OFTEN] * 2000])  # just not too many
@settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_script_and_reference_agree(teaching, batches):
    """Bins, quantiles, ratios and how they fade, field by field."""
    reference = Reference()
    for batch in batches:
        reference.add(batch)

    for cohort in COHORTS:
        assert reference.fields() == teaching(batches, cohort)


async def test_keys_are_of_the_slots_of_tenant_and_fleet(redis, inspector):
    """The model's is shared by all tenants; none of them holds another's."""
    await Lessons(redis).teach([taught()])

    own = shards.shard("acme")
    assert {
        b"{s%d}:learned:acme:m" % own,
        b"{s%d}:learned:acme" % own,
        b"{m0}:learned:m",
    } == set(inspector.keys())


async def test_a_cohort_goes_when_nobody_teaches_it(redis, inspector):
    await Lessons(redis).teach([taught()])

    for cohort in COHORTS:
        assert KEPT_MS - 60_000 < inspector.pttl(shards.learned(*cohort)) <= KEPT_MS


async def test_a_cohort_has_a_bound(redis, inspector):
    """However different its exchanges are."""
    for start in range(0, 40_000, 1000):
        await Lessons(redis).teach(
            taught(output**2, duration_ms=output**2)
            for output in range(start, start + 1000)
        )

    assert inspector.memory_usage(shards.learned(*COHORTS[0])) < 4096


@contextlib.asynccontextmanager
async def refreshing(redis, experience):
    task = asyncio.create_task(Refresher(redis, experience).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_replicas_learn_together(redis_url):
    """25 exchanges at each of two gateways are enough for a third."""
    one, other, third = [await _connect(redis_url) for _ in range(3)]
    await Lessons(one).teach([taught()] * 25)
    await Lessons(other).teach([taught()] * 25)
    experience = Experience()
    assert experience.output("acme", "m") is None
    experience.refund_part("acme", "m")
    experience.bytes_per_token("acme", "m")

    async with refreshing(third, experience):
        await within(SOON, lambda: not experience.wishes)

    assert upper_edge(32) == experience.output("acme", "m")
    assert upper_edge(32) == experience.output("new", "m")
    assert upper_edge(900) == experience.duration_ms("acme", "m")
    assert 0.3 == experience.refund_part("acme", "m")
    assert 4.5 == experience.bytes_per_token("acme", "m")
    for client in (one, other, third):
        await client.close()


async def test_what_is_known_is_kept_fresh(redis):
    await Lessons(redis).teach([taught(32)] * 50)
    experience = Experience()
    experience.output("acme", "m")

    async with refreshing(redis, experience):
        await within(SOON, lambda: experience.output("acme", "m") == upper_edge(32))
        await Lessons(redis).teach([taught(500)] * 50)
        await within(SOON, lambda: experience.output("acme", "m") == upper_edge(500))


class Failing:
    """A Redis whose first call fails."""

    def __init__(self, redis):
        self._redis = redis
        self.calls = 0

    async def call_many(self, commands, **options):
        self.calls += 1
        if self.calls == 1:
            raise Unavailable("away")
        return await self._redis.call_many(commands, **options)


async def test_what_nobody_knows_is_read_when_it_is_asked_for(redis, monkeypatch):
    """Also where Redis was away at first; while nobody asks nothing is read."""
    monkeypatch.setattr(refresher_module, "REFRESH_SECONDS", 3600.0)
    await Lessons(redis).teach([taught(32)] * 50)
    experience, failing = Experience(), Failing(redis)

    async with refreshing(failing, experience):
        await asyncio.sleep(2 * refresher_module.LOOK_SECONDS)  # the first round
        unasked = failing.calls
        experience.output("acme", "m")
        await within(SOON, lambda: experience.output("acme", "m") == upper_edge(32))

    assert (0, 2) == (unasked, failing.calls)


async def test_while_redis_is_away_what_is_known_stays():
    experience = Experience()
    experience.output("acme", "m")
    with running_redis() as server:
        redis = await _connect(server.url)
        await Lessons(redis).teach([taught()] * 50)
        async with refreshing(redis, experience):
            await within(SOON, lambda: experience.output("acme", "m") is not None)

    async with refreshing(redis, experience):
        experience.output("other", "x")
        await asyncio.sleep(0.3)

    assert upper_edge(32) == experience.output("acme", "m")
    assert Cohort("other", "x") in experience.wishes
    await redis.close()


async def test_a_cohort_that_cannot_be_read_hides_no_other(redis, inspector):
    """Somebody's string where a hash belongs."""
    inspector.set(shards.learned("acme", ""), "rubbish")
    await Lessons(redis).teach([taught(tenant="good")] * 50)
    experience = Experience()
    experience.output("acme", "m")

    async with refreshing(redis, experience):
        await within(SOON, lambda: experience.output("acme", "m") is not None)

    assert [Cohort("acme", "")] == experience.wishes


@pytest.mark.parametrize("summary", ["rubbish", "50 1 2 3", "50 900 900", "\xff"])
async def test_what_nobody_can_read_says_nothing(redis, inspector, summary):
    """Somebody's text, or a later release's: the refresher goes on."""
    inspector.hset(shards.learned("acme", "m"), "output", summary)
    await Lessons(redis).teach([taught(tenant="good")] * 50)
    experience = Experience()
    experience.output("acme", "m")

    async with refreshing(redis, experience):
        await within(SOON, lambda: experience.output("acme", "m") is not None)

    assert [] == experience.wishes


async def test_a_cap_nobody_uses_up_leaves_room_for_others(redis, limiter):
    """20 at once, max_tokens 200, real output 32, 1,000 units a minute: 18 fit.

    At weights 1:1 with a full bucket, after 50 exchanges of another tenant on the same
    model; without them the catalog's default would leave room for 4.
    """
    experience = Experience()
    admitted = []
    for lessons in ([], [taught(32, tenant="other")] * 50):
        await Lessons(redis).teach(lessons)
        experience.output("acme", "m")
        await Refresher(redis, experience).refresh(COHORTS)
        reservations = [
            reservation(number, len(lessons), experience) for number in range(20)
        ]
        verdicts = await asyncio.gather(*map(limiter.reserve, reservations))
        admitted.append(sum(isinstance(it, Granted) for it in verdicts))
        for it in reservations:
            await limiter.release(it)

    assert admitted[0] == 4
    assert admitted[1] >= 18


def reservation(number, seed, experience):
    """A short question of acme, under a limit of its own."""
    weights = MODEL.weights
    body = {
        "model": "m",
        "max_tokens": 200,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    request = parse(Operation.CHAT, json.dumps(body).encode())
    expected = estimate(request, MODEL, "acme", Policy.LEARNED, experience)
    return Reservation(
        exchange_id=exchange_id(
            time.time_ns() // 1_000_000, (seed * 100 + number).to_bytes(10)
        ),
        facts=examples.facts(
            weights=(weights.input, weights.cached_input, weights.output),
            reserved_units=expected.units(weights),
            input_estimate=expected.input_tokens,
            output_estimate=expected.output_tokens,
        ),
        limits=(Limit(Scope.TENANT_MODEL, Measure.UNITS, 1000, burst=60.0),),
    )
