"""What refused clients are told, and whether it was true, through the real scripts."""

import heapq
import math
import random
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.integration.limits.rig import START_MS, ask, new_id
from tollhouse.adapters.redis.client import Script
from tollhouse.core import waits
from tollhouse.core.exchange import Settlement
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.reservation import Granted, Reservation, Typical
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind
from tollhouse.core.waits import LEDGER_MS, LONGEST_MS, Running

CALLS = """
local numbers = {}
for index = 2, #ARGV do
  numbers[#numbers + 1] = tonumber(ARGV[index])
end
if ARGV[1] == 'bucket' then
  return wait_bucket(unpack(numbers))
elseif ARGV[1] == 'place' then
  return wait_place(unpack(numbers))
elseif ARGV[1] == 'capacity' then
  return wait_capacity(unpack(numbers))
elseif ARGV[1] == 'open' then
  return { wait_open(KEYS[1], unpack(numbers)) }
elseif ARGV[1] == 'promised' then
  return wait_promised(KEYS[1], KEYS[2])
end
wait_promise(KEYS[1], KEYS[2], unpack(numbers))
"""
SCRIPT = Script.load("clock.lua", "waits.lua").source + CALLS
PROMISES = "{s1}:promises"
NOW = START_MS


@pytest.fixture
def call(redis_url, inspector):
    """Calls one function of waits.lua on an empty Redis."""
    script = inspector.register_script(SCRIPT)

    def call(*arguments, keys=()):
        return script(keys=keys, args=arguments)

    return call


grains = st.integers(1, 10**10)


@given(
    promised=st.one_of(st.just(0), st.integers(NOW - 1000, NOW + LONGEST_MS)),
    amounts=st.fixed_dictionaries({"missing": grains, "cost": grains}),
    rate=st.integers(1, 10**6),
    running=st.builds(
        Running,
        exchanges=st.integers(0, 500),
        oldest_ms=st.integers(NOW - 100_000, NOW),
        duration_ms=st.integers(0, 100_000),
        refund=st.one_of(st.just(0), grains),
    ),
)
@settings(max_examples=300, deadline=None, database=None)
def test_script_and_reference_agree(rig, promised, amounts, rate, running):
    call = rig.inspector.register_script(SCRIPT)
    oldest = running.exchanges, running.oldest_ms, running.duration_ms
    missing, cost = amounts["missing"], amounts["cost"]
    flying, duration = max(1, missing // 3), running.duration_ms

    expected = (
        waits.refilled_ms(NOW, promised, **amounts, rate=rate, running=running),
        waits.free_ms(NOW, promised, running),
        waits.landed_ms(
            NOW, promised, **amounts, in_flight=flying, duration_ms=duration
        ),
    )
    bucket = missing, cost, rate, *oldest, running.refund
    told = (
        call([], ["bucket", NOW, promised, *bucket]),
        call([], ["place", NOW, promised, *oldest]),
        call([], ["capacity", NOW, promised, missing, cost, flying, duration]),
    )

    assert expected == told


@pytest.mark.parametrize("count", [0, 1, 127, 128, 1000])
def test_the_oldest_of_those_that_run_is_found(call, inspector, count):
    """By its id, among at most 128: a refusal costs the same, however many run."""
    leases = {new_id(n, NOW + 500 - n): NOW + 1 + n for n in range(count)}
    gone = {new_id(n, NOW - 9000): NOW - n for n in range(3)}
    inspector.zadd("{s1}:concurrent:x", leases | gone)

    running, oldest = call("open", NOW, keys=["{s1}:concurrent:x"])

    assert count == running
    assert NOW + 500 - min(count - 1, 127) == oldest if count else oldest == NOW


def test_promises_are_kept_as_long_as_the_latest(call, inspector):
    first, second = [PROMISES, "{s1}:a"], [PROMISES, "{s1}:b"]
    call("promise", NOW + 30_000, NOW, keys=first)
    call("promise", NOW + 5000, NOW, keys=second)

    assert NOW + 30_000 == call("promised", keys=first)
    assert NOW + 5000 == call("promised", keys=second)
    assert 0 == call("promised", keys=[PROMISES, "{s1}:c"])
    assert 20_000 < inspector.pttl(PROMISES) <= 30_000


def test_past_promises_do_not_pile_up(call, inspector):
    for n in range(2000):
        call("promise", NOW + n + 50, NOW + n, keys=[PROMISES, f"{{s1}}:{n}"])

    assert inspector.hlen(PROMISES) <= 128 + 50


@dataclass(frozen=True)
class Workload:
    """Clients that come at once and ask for the same, while others are served.

    `sigma`: of the lognormal durations. `used`: units of the 100 reserved, on average.
    """

    limits: tuple[Limit, ...]
    clients: int = 40
    median_ms: int = 3000
    sigma: float = 1.0
    used: int = 100
    busy: int = 0
    """Exchanges that came one after the other before the clients."""


def limit(measure, value, **changes):
    return Limit(Scope.TENANT_MODEL, measure, value, **changes)


class Run:
    """One workload through the limiter; all times are the rig's."""

    def __init__(self, rig, workload, seed):
        self.rig, self.workload = rig, workload
        self.limiter = rig.limiter(lease_seconds=600)
        self.chance = random.Random(seed)
        self.made = 0
        self.retries = self.in_time = 0
        self.agenda: list[tuple[float, int, Any]] = []

    def run(self):
        """Until every client was served; the share of retries that were."""
        work = self.workload
        for n in range(work.busy):
            self._later(n * work.median_ms // work.busy, False)
        start = work.median_ms
        for _ in range(work.clients):
            self._later(start, False)
        while self.agenda:
            at, _, what = heapq.heappop(self.agenda)
            self.rig.move(START_MS + math.ceil(at) - self.rig.now_ms)
            if isinstance(what, Reservation):
                self._settle(what)
            else:
                self._ask(at, is_retry=what)
        return self.in_time, self.retries

    def _later(self, at, what):
        self.made += 1
        heapq.heappush(self.agenda, (at, self.made, what))

    def _ask(self, at, *, is_retry):
        self.made += 1
        work = self.workload
        asked = ask(
            new_id(self.made, self.rig.now_ms),
            *work.limits,
            reserved_units=100,
            weights=(1, 0, 1),
        )
        typical = Typical(work.median_ms, 100 - work.used)
        reservation = replace(asked, typical=typical)
        answer = self.rig.reserve(self.limiter, reservation)
        self.retries += is_retry
        if not isinstance(answer, Granted):
            assert answer.retry_after_seconds is not None
            self._later(at + answer.retry_after_seconds * 1000, True)
            return
        self.in_time += is_retry
        facts = structs.replace(reservation.facts, debits=answer.debits)
        admitted = replace(reservation, facts=facts)
        took = work.median_ms * self.chance.lognormvariate(0, work.sigma)
        self._later(at + took + LEDGER_MS * self.chance.random(), admitted)

    def _settle(self, reservation):
        now_ms, mean = self.rig.now_ms, self.workload.used
        spread = min(mean, 100 - mean)
        used = self.chance.randint(mean - spread, mean + spread)
        settlement = Settlement(
            exchange_id=reservation.exchange_id,
            facts=reservation.facts,
            kind=UsageKind.FINAL,
            usage=TokenUsage(used, 0),
            input_source=CountSource.BACKEND,
            output_source=CountSource.BACKEND,
            started_ms=now_ms,
            first_ms=0,
            ended_ms=now_ms,
            flags="",
        )
        self.rig.run(self.limiter.settle_many([settlement]))


PLACES = limit(Measure.CONCURRENT, 200)
WORKLOADS = {
    "requests": Workload((limit(Measure.REQUESTS, 120, burst=5),)),
    "units": Workload((limit(Measure.UNITS, 6000),)),
    "units, ends unknown": Workload((limit(Measure.UNITS, 6000),), used=20),
    "units, ends known": Workload((limit(Measure.UNITS, 6000), PLACES), used=20),
    "units of a busy tenant": Workload(
        (limit(Measure.UNITS, 6000), PLACES), used=20, busy=10
    ),
    "places": Workload((limit(Measure.CONCURRENT, 10),)),
    "places of a busy tenant": Workload((limit(Measure.CONCURRENT, 10),), busy=10),
    "places, alike": Workload((limit(Measure.CONCURRENT, 10),), sigma=0.3),
    "all": Workload(
        (
            limit(Measure.REQUESTS, 120),
            limit(Measure.UNITS, 6000),
            limit(Measure.CONCURRENT, 10),
        ),
        used=20,
        busy=10,
    ),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_who_comes_back_at_the_time_told_finds_room(rig, name):
    """Nine of ten do, however many were refused at the same moment."""
    in_time = retries = 0
    for seed in range(3):
        served, tried = Run(rig, WORKLOADS[name], seed).run()
        in_time += served
        retries += tried

    assert retries > 20
    assert in_time >= 0.9 * retries


@pytest.mark.parametrize(
    ("others", "seconds"),
    [((PLACES,), 4.765), ((), 6.0)],
    ids=["ends known", "unknown"],
)
def test_the_earlier_of_refill_and_refunds_is_told(rig, others, seconds):
    """A bucket of 400 at 1,000 a minute, taken up by 4 that give back 80 of 100 each.

    100 more refill in 6 s. The oldest of the four ends after 4.25 s, when 70.8 are
    there; from then on ends give 40 a second beside the 16.7 of the bucket. They are
    known where exchanges at once are limited, too.
    """
    limiter = rig.limiter()
    limits = limit(Measure.UNITS, 1000, burst=24), *others
    *_, answer = (
        rig.reserve(
            limiter, replace(ask(new_id(number), *limits), typical=Typical(4000, 80))
        )
        for number in range(5)
    )

    assert limits[0] == answer.limit
    assert seconds == pytest.approx(answer.retry_after_seconds, abs=0.002)


def test_what_never_fits_promises_nothing(rig):
    """A budget that is used up is no reason to keep others waiting for a place."""
    limiter = rig.limiter()
    limits = limit(Measure.CONCURRENT, 1), limit(Measure.UNITS_PER_DAY, 150)
    rig.reserve(limiter, ask(new_id(1), *limits))

    answer = rig.reserve(limiter, ask(new_id(2), *limits))

    assert limits[1] == answer.limit
    assert None is answer.retry_after_seconds
    assert [] == rig.inspector.keys("*:promises")


def test_each_refused_is_told_a_time_behind_the_one_before(rig):
    limiter = rig.limiter()
    places = limit(Measure.CONCURRENT, 2)
    typical = Typical(duration_ms=4000)
    told = []
    for number in range(6):
        asked = replace(ask(new_id(number), places), typical=typical)
        answer = rig.reserve(limiter, asked)
        if not isinstance(answer, Granted):
            told.append(answer.retry_after_seconds)

    assert [4.25, 8.25, 12.25, 16.25] == told


def test_a_limit_in_shadow_promises_nothing(rig):
    limiter = rig.limiter()
    places = limit(Measure.CONCURRENT, 1, shadow=True)
    for number in range(3):
        rig.reserve(limiter, ask(new_id(number), places))

    assert [] == rig.inspector.keys("*:promises")
