"""What the limits were charged is what was used, however exchanges went."""

from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.integration.limits.rig import START_MS, ask, new_id, shards_of
from tollhouse.adapters.redis import shards
from tollhouse.core.buckets import GRAINS
from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.limits import Allowance, Limit, Measure, Scope
from tollhouse.core.reservation import Granted
from tollhouse.core.room import debit
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

SHARD = shards.shard("acme")
HUGE = 10**13
WIDE = Allowance(
    *(600, 60_000, None),
    *(HUGE, HUGE, HUGE, HUGE),
    burst_seconds=1e7,
)
CAPACITY = Limit(Scope.MODEL, Measure.CAPACITY, HUGE)
SCOPES = (Scope.KEY, Scope.TENANT, Scope.GLOBAL)
LIMITS = (CAPACITY, *(it for scope in SCOPES for it in WIDE.limits(scope, "UTC")))
BUSY = 10**12
"""Grains that no run here drains: buckets never rest, so sums are exact."""
PRICES = (3, 3, 7)

fates = st.fixed_dictionaries(
    {
        "reserved": st.integers(0, 500),
        "beats": st.lists(st.integers(0, 800), max_size=3),
        "fate": st.sampled_from(["settle", "reap", "reap and settle", "release"]),
        "used": st.integers(0, 800),
        "repeats": st.integers(1, 2),
    }
)


def key(limit, at_ms=START_MS):
    return shards.limit(debit(limit, at_ms), "acme", "k1", "m1")


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    plans=st.lists(fates, min_size=1, max_size=6),
    turns=st.lists(st.integers(0, 5), max_size=40),
    pause_ms=st.integers(0, 900),
)
def test_only_what_was_settled_is_charged(rig, plans, turns, pause_ms):
    """Interleaved with time passing: used = before + settled - drained, to the grain.

    In the tenant's slot as in the fleet's. Released exchanges cost nothing, not even
    their request; reaped ones keep what they had taken; nothing is counted twice, and
    nothing is in flight in the end.
    """
    limiter = rig.limiter(lease_seconds=0.0)
    buckets = [it for it in LIMITS if it.measure.is_bucket]
    rig.inspector.mset({key(it): f"{BUSY} {START_MS}" for it in buckets})
    lives = [life(rig, limiter, new_id(n), plan) for n, plan in enumerate(plans)]
    for turn in turns:
        next(lives[turn % len(lives)], None)
        rig.move(pause_ms)
    units = money = requests = 0
    for remaining, plan in zip(lives, plans, strict=True):
        for _ in remaining:
            pass
        units += owed(plan, plan["reserved"], 1)
        money += owed(plan, 0, PRICES[2])
        requests += plan["fate"] != "release"
    passed_ms = rig.now_ms - START_MS
    # A last reservation tells the level of each limit.
    last = rig.reserve(limiter, reservation(new_id(99), 0))

    expected = {
        Measure.REQUESTS: BUSY + (requests + 1) * GRAINS - 600 * passed_ms,
        Measure.UNITS: BUSY + units * GRAINS - 60_000 * passed_ms,
        Measure.UNITS_PER_DAY: units,
        Measure.UNITS_PER_MONTH: units,
        Measure.MONEY_PER_DAY: money,
        Measure.MONEY_PER_MONTH: money,
        Measure.CAPACITY: 0,
    }
    assert tuple(expected[it.measure] for it in LIMITS) == last.levels


def owed(plan, reserved, each):
    """Units, or money by another price of a token and nothing reserved."""
    match plan["fate"]:
        case "release":
            return 0
        case "reap":
            return max(reserved, *(each * it for it in plan["beats"]), 0)
        case _:
            return plan["used"] * each


def reservation(id_, units):
    return ask(
        id_,
        *LIMITS,
        reserved_units=units,
        weights=(1, 1, 1),
        prices=PRICES,
        input_estimate=0,
        output_estimate=0,
    )


def life(rig, limiter, id_, plan):
    """The steps of one exchange, some twice, one per turn."""
    mine = reservation(id_, plan["reserved"])
    about = mine.facts
    for _ in range(plan["repeats"]):
        granted = rig.reserve(limiter, mine)
        about = replace(about, debits=granted.debits)
        yield
    if plan["fate"] == "release":
        for _ in range(plan["repeats"]):
            rig.run(limiter.apply([Release(id_, "acme")], [], []))
            yield
        return
    for tokens in plan["beats"]:
        beat = Beat(
            exchange_id=id_,
            facts=about,
            usage=TokenUsage(output_tokens=tokens),
            input_source=CountSource.BACKEND,
            output_source=CountSource.METER,
            started_ms=START_MS,
            first_ms=0,
            at_ms=rig.now_ms,
        )
        rig.run(limiter.beat_many([beat] * plan["repeats"]))
        yield
    if plan["fate"].startswith("reap"):
        for _ in range(plan["repeats"]):
            rig.run(rig.reaper.reap([(SHARD, id_), (shards.FLEET, id_)]))
            yield
    if plan["fate"].endswith("settle"):
        settlement = settle(id_, about, rig.now_ms, plan["used"])
        rig.run(limiter.settle_many([settlement] * plan["repeats"]))
        yield


def settle(id_, about, ended_ms, used):
    return Settlement(
        exchange_id=id_,
        facts=about,
        kind=UsageKind.FINAL,
        usage=TokenUsage(output_tokens=used),
        input_source=CountSource.BACKEND,
        output_source=CountSource.BACKEND,
        started_ms=ended_ms,
        first_ms=0,
        ended_ms=ended_ms,
        flags="",
    )


def test_no_minute_holds_more_than_limit_and_burst(rig):
    """A greedy client gets, in any 60 s, at most the limit and the burst."""
    limit = Limit(Scope.KEY, Measure.UNITS, 1200, burst=15)
    limiter = rig.limiter(lease_seconds=1000)
    admitted = []
    for number in range(2000):
        mine = ask(new_id(number), limit, reserved_units=1 + number * 7 % 90)
        if isinstance(rig.reserve(limiter, mine), Granted):
            admitted.append((rig.now_ms, mine.facts.reserved_units))
        rig.move(100)
    worst = max(
        sum(units for at, units in admitted if start <= at < start + 60_000)
        for start, _ in admitted
    )
    total = sum(units for _, units in admitted)

    assert worst <= 1200 + 300
    assert total >= 0.97 * 1200 * 200 / 60, "and it gets what it pays for"


class Client:
    """Asks for units of the output alone, and settles them."""

    def __init__(self, rig, limits, now_ms=START_MS):
        self.rig, self.limits = rig, limits
        self.limiter = rig.limiter(lease_seconds=1000, now_ms=now_ms)
        self.made = 0

    def ask(self, units, made_ms=None):
        """What was charged, or None."""
        self.made += 1
        id_ = new_id(self.made, made_ms or self.rig.now_ms)
        mine = ask(id_, *self.limits, reserved_units=units, weights=(1, 1, 1))
        answer = self.rig.reserve(self.limiter, mine)
        if isinstance(answer, Granted):
            return id_, replace(mine.facts, debits=answer.debits)
        return None

    def settle(self, charged, used):
        id_, about = charged
        settlement = settle(id_, about, self.rig.now_ms, used)
        self.rig.run(self.limiter.settle_many([settlement]))

    def takes(self, most, step=50):
        """How many units it is given at once, when it asks for as many as it can."""
        return sum(step for _ in range(0, most, step) if self.ask(step))

    def stored(self):
        redis = self.rig.inspector
        return {
            name.decode().split(":", 1)[1]: int(redis.get(name).split()[0])
            for name in redis.keys("*:bu*")
        }


@pytest.mark.parametrize("scope", [Scope.TENANT_MODEL, Scope.GLOBAL])
def test_an_exchange_that_crosses_a_minute_brings_nothing_into_the_next(rig, scope):
    """Its refund is of a minute that is over: no credit, no second allowance.

    In a widespread proxy 1,857 of 1,000 were admitted after it.
    """
    client = Client(rig, (Limit(scope, Measure.UNITS, 1000, burst=60),))
    long = client.ask(900)
    rig.move(61_000)
    client.settle(long, 33)

    assert {} == client.stored()
    assert 1000 == client.takes(3000)


def test_a_refund_within_the_minute_is_admitted_again(rig):
    """Nearly all of what is paid for: 967 of what was taken was not used."""
    client = Client(rig, (Limit(Scope.KEY, Measure.UNITS, 1000, burst=60),))
    short = client.ask(1000)
    client.settle(short, 33)

    assert 950 == client.takes(3000)


def test_a_debt_is_refilled_before_it_is_forgiven(rig):
    """An overrun of 400 keeps others out for 24 s, however full the bucket was."""
    client = Client(rig, (Limit(Scope.KEY, Measure.UNITS, 1000, burst=6),))
    over = client.ask(100)
    rig.move(60_000)
    client.settle(over, 600)

    rig.move(26_999)
    assert None is client.ask(50)
    rig.move(1)
    assert 50 == client.takes(100)


MONTHS = [
    ("Europe/Berlin", "2027-01-31T23:59:00+01:00", "202701", "202702"),
    ("UTC", "2027-02-28T23:59:00+00:00", "202702", "202703"),
    ("America/New_York", "2027-12-31T23:59:00-05:00", "202712", "202801"),
]
DAYS = [
    # Clocks go forward in the first, back in the second: 23 and 25 hours.
    ("Europe/Berlin", "2027-03-28T23:59:00+02:00", "20270328", "20270329"),
    ("Europe/Berlin", "2027-10-31T23:59:00+01:00", "20271031", "20271101"),
    ("Asia/Kathmandu", "2027-01-01T23:59:00+05:45", "20270101", "20270102"),
]


@pytest.mark.parametrize("scope", [Scope.TENANT, Scope.GLOBAL])
@pytest.mark.parametrize(
    ("measure", "zone", "minute_before", "old", "new"),
    [
        *((Measure.UNITS_PER_MONTH, *case) for case in MONTHS),
        *((Measure.UNITS_PER_DAY, *case) for case in DAYS),
    ],
)
def test_an_exchange_that_crosses_a_period_is_of_the_one_it_began_in(
    rig, *, scope, measure, zone, minute_before, old, new
):
    """Its refund goes back there; the new period holds its limit, no more, no less."""
    now_ms = round(datetime.fromisoformat(minute_before).timestamp() * 1000)
    client = Client(rig, (Limit(scope, measure, 1000, zone=zone),), now_ms)
    owner = "global" if scope is Scope.GLOBAL else "tenant:acme"
    name = f"budget:{owner}:units:"
    long = client.ask(900)
    assert None is client.ask(101)
    rig.move(59_999)
    assert None is client.ask(101), "it is the same period still"
    assert {name + old: 900} == client.stored()
    rig.move(1)
    assert 400 == client.takes(400)
    client.settle(long, 33)

    assert {name + old: 33, name + new: 400} == client.stored()
    assert 600 == client.takes(3000)


def test_a_period_that_began_since_the_id_was_made_is_charged(rig):
    """Midnight between a request's headers and its body: Redis' time decides."""
    midnight = round(datetime.fromisoformat("2027-02-01T00:00+01:00").timestamp() * 1e3)
    limits = (
        Limit(Scope.KEY, Measure.UNITS_PER_DAY, 1000, zone="Europe/Berlin"),
        Limit(Scope.GLOBAL, Measure.UNITS_PER_MONTH, 1000, zone="Europe/Berlin"),
    )
    client = Client(rig, limits, midnight)
    client.ask(100, made_ms=midnight - 1)

    assert {
        "budget:key:k1:units:20270201": 100,
        "budget:global:units:202702": 100,
    } == client.stored()


def test_a_lease_counts_until_it_ends(rig):
    """To the millisecond: then its place is free, and it may be reaped."""
    places = Limit(Scope.KEY, Measure.CONCURRENT, 1)
    limiter = rig.limiter(lease_seconds=20.0)
    first, second = (ask(new_id(n), places) for n in range(2))
    assert isinstance(rig.reserve(limiter, first), Granted)
    rig.move(19_999)

    assert not isinstance(rig.reserve(limiter, second), Granted)
    assert [] == rig.run(rig.reaper.reap([(SHARD, first.exchange_id)]))
    rig.move(1)
    assert isinstance(rig.reserve(limiter, second), Granted)
    assert {SHARD} == shards_of(rig.run(rig.reaper.reap([(SHARD, first.exchange_id)])))
