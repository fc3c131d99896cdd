"""The hash of a model's capacity, and fair sharing through the real scripts."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.integration.limits.rig import ask, new_id
from tollhouse.adapters.redis.client import Script
from tollhouse.core.exchange import Settlement
from tollhouse.core.fairness import Flight, change, judge
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.reservation import Granted
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

KEY = "{m0}:inflight:m1"
CAPACITY = 1000
CALLS = """
local tenant, weight = ARGV[2], tonumber(ARGV[3])
local first, second = tonumber(ARGV[4]), tonumber(ARGV[5])
if ARGV[1] == 'change' then
  return fair_change(KEYS[1], tenant, weight, first, second)
end
local fits, in_flight, counter = fair_room(KEYS[1], tenant, weight, first, second)
if fits then
  fair_change(KEYS[1], tenant, weight, first, first, counter)
end
return { fits and 1 or 0, in_flight, counter }
"""


@pytest.fixture
def call(redis_url, inspector):
    """Calls fairness.lua on an empty hash."""
    script = inspector.register_script(Script.load("fairness.lua").source + CALLS)

    def call(*arguments):
        return script(keys=[KEY], args=arguments)

    return call


def stored(inspector):
    return {
        name.decode(): tuple(map(int, text.split()))
        for name, text in inspector.hgetall(KEY).items()
    }


def expected(flight):
    """The hash of a state."""
    if not flight.stakes:
        return {}
    tenants = {
        name: (stake.units, stake.counter, stake.weight)
        for name, stake in flight.stakes.items()
    }
    return tenants | {"*": (flight.units, flight.weights, flight.largest)}


names = st.sampled_from(["a", "b", "c", "total", "0"])
weights = st.sampled_from([1, 2, 3, 7])
amounts = st.integers(-2500, 2500)
events = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), names, weights, st.integers(0, 2500)),
        st.tuples(st.just("change"), names, weights, amounts, amounts),
    ),
    max_size=80,
)


@given(events=events)
@settings(max_examples=150, deadline=None, database=None)
def test_script_and_reference_agree(rig, events):
    """Every answer and every field, whatever comes in any order."""
    rig.inspector.delete(KEY)
    script = Script.load("fairness.lua").source + CALLS
    call = rig.inspector.register_script(script)
    flight = Flight()
    for what, tenant, weight, *numbers in events:
        if what == "reserve":
            (cost,) = numbers
            verdict = judge(flight, tenant, weight, cost, CAPACITY)
            answer = [int(verdict.fits), flight.units, verdict.counter]
            if verdict.fits:
                flight = change(
                    *(flight, tenant, weight),
                    held=cost,
                    served=cost,
                    counter=verdict.counter,
                )
            assert answer == call([KEY], [what, tenant, weight, cost, CAPACITY])
        else:
            held, served = numbers
            flight = change(flight, tenant, weight, held=held, served=served)
            call([KEY], [what, tenant, weight, held, served])
        assert expected(flight) == stored(rig.inspector)


def test_nothing_is_left_of_a_model_at_rest(call, inspector):
    call("reserve", "a", 1, 700, CAPACITY)
    call("reserve", "b", 1, 900, CAPACITY)
    call("change", "a", 1, -700, -700)
    call("change", "b", 1, -1000, 0)

    assert not inspector.exists(KEY)


def test_long_use_does_not_wear_out_the_counters(call, inspector):
    """They are exact below 2^53: a year of a million units a second, at weight 1."""
    year = 365 * 86_400 * 10**6
    for _ in range(4):
        call("reserve", "a", 1, 1, 10)
        call("change", "a", 1, 0, year)
    call("change", "a", 1, 0, 1)

    assert (4, (4 * year + 5) * 60, 1) == stored(inspector)["a"]


class Model:
    """One model whose capacity tenants share, through the limiter."""

    def __init__(self, rig):
        self.rig = rig
        self.limiter = rig.limiter()
        self.made = 0

    def reserve(self, tenant, units, weight=1):
        """What a granted exchange is settled with, None: refused."""
        self.made += 1
        limit = Limit(Scope.MODEL, Measure.CAPACITY, CAPACITY, weight=weight)
        reservation = ask(
            new_id(self.made, self.rig.now_ms),
            limit,
            tenant=tenant,
            reserved_units=units,
            weights=(1, 0, 1),
        )
        answer = self.rig.reserve(self.limiter, reservation)
        if not isinstance(answer, Granted):
            return None
        return reservation, answer.debits

    def settle(self, granted, units):
        reservation, debits = granted
        settlement = Settlement(
            exchange_id=reservation.exchange_id,
            facts=structs.replace(reservation.facts, debits=debits),
            kind=UsageKind.FINAL,
            usage=TokenUsage(units, 0),
            input_source=CountSource.BACKEND,
            output_source=CountSource.BACKEND,
            started_ms=self.rig.now_ms,
            first_ms=0,
            ended_ms=self.rig.now_ms,
            flags="",
        )
        self.rig.run(self.limiter.settle_many([settlement]))


def test_a_quiet_tenant_is_never_refused(rig):
    """Beside one that asks as often as it can, and fills the model."""
    chance = random.Random(1)
    model = Model(rig)
    running = []
    refused = {"noisy": 0, "quiet": 0}
    for turn in range(600):
        tenant = "quiet" if turn % 50 == 49 else "noisy"
        granted = model.reserve(tenant, chance.randint(50, 150))
        if granted is None:
            refused[tenant] += 1
        else:
            running.append(granted)
        if len(running) > 8 and turn % 5 == 0:
            model.settle(running.pop(0), 20)
        rig.move(10)

    assert 0 == refused["quiet"]
    assert refused["noisy"] > 300
    for granted in running:
        model.settle(granted, 20)
    assert not rig.inspector.exists(KEY)


def test_weights_share_a_saturated_model(rig):
    """Two that always want more are given 3 to 1, after settlement, too."""
    model = Model(rig)
    running: dict[str, list] = {"heavy": [], "light": []}
    given_units = {"heavy": 0, "light": 0}
    chance = random.Random(2)
    for turn in range(500):
        for tenant, weight in (("light", 1), ("heavy", 3)):
            granted = model.reserve(tenant, chance.randint(40, 80), weight)
            if granted is not None:
                running[tenant].append((turn + chance.randint(10, 30), granted))
        for tenant, open_ in running.items():
            for ends, granted in list(open_):
                if ends <= turn:
                    units = granted[0].facts.reserved_units // 2
                    model.settle(granted, units)
                    given_units[tenant] += units
                    open_.remove((ends, granted))
        rig.move(10)

    share = given_units["heavy"] / sum(given_units.values())
    assert 0.75 == pytest.approx(share, abs=0.04)
