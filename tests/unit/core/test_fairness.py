"""Who enters a saturated model, and what becomes of the shares in the long run."""

import heapq
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.fairness import SCALE, Flight, Stake, change, judge

CAPACITY = 1000


def flight(**units):
    """Tenants of weight 1 with equal counters; "a" has units["a"] in flight."""
    return Flight({name: Stake(n, 100, 1) for name, n in units.items()})


def enter(state, tenant, cost, *, weight=1, capacity=CAPACITY):
    """The state after a request that fits, else None."""
    verdict = judge(state, tenant, weight, cost, capacity)
    if not verdict.fits:
        return None
    return change(
        state, tenant, weight, held=cost, served=cost, counter=verdict.counter
    )


@pytest.mark.parametrize(
    ("state", "cost", "fits"),
    [
        (flight(), 1000, True),
        (flight(a=400, b=500), 100, True),
        (flight(a=400, b=500), 101, False),  # over its share, and not behind
        (flight(b=1000), 500, True),  # newcomer: half the capacity is its share
        (flight(b=1000, c=500), 333, True),
        (flight(b=1000, c=500), 334, False),
        (flight(a=300, b=1000), 200, True),
        (flight(a=300, b=1000), 201, False),
        (flight(b=1000, c=800), 200, True),
        (flight(b=1000, c=800), 201, False),  # within its share, but twice is the most
    ],
)
def test_who_enters(state, cost, fits):
    assert fits == judge(state, "a", 1, cost, CAPACITY).fits


def test_nothing_goes_where_nothing_is_allowed():
    assert not judge(flight(), "a", 1, 0, 0).fits


@pytest.mark.parametrize(
    ("behind", "in_flight", "fits"),
    [
        (0, 1000, False),
        (1, 1000, True),  # as far as the capacity
        (SCALE - 1, 1001, False),
        (SCALE, 1001, True),
        (125 * SCALE, 1125, True),
        (400 * SCALE, 1126, False),  # an eighth over the capacity is the most
    ],
)
def test_who_is_behind_goes_first(behind, in_flight, fits):
    """The further behind, the further over the capacity."""
    served = 10**6
    state = Flight(
        {
            "a": Stake(500, served - behind, 1),
            "b": Stake(in_flight - 500, served, 1),
        }
    )

    assert fits == judge(state, "a", 1, 60, CAPACITY).fits


def test_a_time_away_is_not_made_up_for():
    """A tenant is at most its share behind, however long others were served."""
    state = Flight({"a": Stake(1, 0, 1), "b": Stake(1000, 10**9, 3)})

    verdict = judge(state, "a", 1, 900, CAPACITY)

    assert 10**9 - 250 * SCALE == verdict.counter


def test_a_request_larger_than_the_capacity_gets_its_turn():
    """Alone, or when its tenant is behind; and never beside another such."""
    alone = enter(flight(), "a", 5000)
    beside = enter(flight(b=1000), "a", 5000)

    assert 5000 == alone.units
    assert 6000 == beside.units
    assert None is enter(flight(b=1001), "a", 5000)
    assert None is enter(alone, "a", 5000)
    assert None is enter(alone, "c", 5000)


def test_a_tenant_without_units_in_flight_is_forgotten():
    state = change(flight(a=10, b=20), "a", 1, held=-10, served=-10)

    assert {"b"} == state.stakes.keys()


def test_what_is_taken_back_may_have_been_lost():
    assert flight(b=20) == change(flight(b=20), "a", 1, held=-10, served=-10)
    assert {"a": Stake(10, 0, 1)} == change(
        flight(a=20), "a", 1, held=-10, served=-50
    ).stakes


def test_what_is_under_way_keeps_its_weight():
    """A plan that changed counts from the next request on."""
    state = Flight({"a": Stake(10, 0, 2)})

    assert 2 == change(state, "a", 5, held=1, served=1).stakes["a"].weight
    assert 5 == enter(state, "a", 1, weight=5).stakes["a"].weight
    assert 5 == change(Flight(), "a", 5, held=1, served=1).stakes["a"].weight


def test_a_settlement_gives_back_what_was_not_used():
    """Reserved 100, used 30, of weight 3: the tenant was given 30."""
    state = change(flight(a=50), "a", 1, held=0, served=0)
    state = enter(state, "a", 100)
    state = change(state, "a", 1, held=-100, served=30 - 100)

    assert {"a": Stake(50, 100 + 30 * SCALE, 1)} == state.stakes


names = st.sampled_from("abcde")
weights = st.sampled_from([1, 2, 3, 10])
events = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), names, weights, st.integers(0, 3000)),
        st.tuples(st.just("end"), names, weights, st.integers(-3000, 3000)),
    ),
    max_size=60,
)


@given(events=events)
def test_bounds(events):
    """Never over twice the capacity but by one large request.

    Below that, who stays within its share is not refused.
    """
    state = Flight()
    held: dict[str, list[int]] = {}
    for what, tenant, weight, number in events:
        if what == "enter":
            after = enter(state, tenant, number, weight=weight)
            units = state.units + number
            if after is None:
                own = state.stakes.get(tenant, Stake(0, 0, 0))
                active = state.weights - own.weight + weight
                assert units > CAPACITY
                assert units > 2 * CAPACITY or (
                    (own.units + number) * active > CAPACITY * weight
                )
                continue
            state = after
            held.setdefault(tenant, []).append(number)
            assert units == state.units
            assert units <= max(2 * CAPACITY, CAPACITY + number)
        elif held.get(tenant):
            charged = held[tenant].pop()
            served = max(-charged, number)
            state = change(state, tenant, weight, held=-charged, served=served)
        sums = {name: sum(units) for name, units in held.items() if sum(units)}
        assert sums == {name: it.units for name, it in state.stakes.items()}


@dataclass
class Tenant:
    """Asks `rate` times a second, at random, for one of `sizes`."""

    weight: int
    rate: float
    sizes: tuple[int, int]
    seconds: float = 1.0


@dataclass
class Outcome:
    served: list[int]
    refused: list[int]
    peak: int
    mean: float


def simulate(*tenants, capacity=CAPACITY, seconds=60, seed=1):
    """Lognormal durations of a mean; a quarter of each request is given back."""
    chance = random.Random(seed)
    count = len(tenants)
    outcome = Outcome([0] * count, [0] * count, 0, 0.0)
    state, now = Flight(), 0.0
    agenda: list[tuple[float, int, Any]] = [(0.0, who, None) for who in range(count)]
    heapq.heapify(agenda)
    while agenda[0][0] < seconds:
        at, who, charged = heapq.heappop(agenda)
        outcome.mean += state.units * (at - now) / seconds
        now, tenant, name = at, tenants[who], str(who)
        if charged is not None:
            state = change(
                state, name, tenant.weight, held=-charged, served=-(charged // 4)
            )
            outcome.served[who] += charged - charged // 4
            continue
        heapq.heappush(agenda, (now + chance.expovariate(tenant.rate), who, None))
        cost = chance.randint(*tenant.sizes)
        after = enter(state, name, cost, weight=tenant.weight, capacity=capacity)
        if after is None:
            outcome.refused[who] += 1
            continue
        state = after
        outcome.peak = max(outcome.peak, state.units)
        ends = now + tenant.seconds * chance.lognormvariate(-0.5, 1)
        heapq.heappush(agenda, (ends, who, cost))
    return outcome


@pytest.mark.parametrize(
    ("tenants", "capacity", "expected"),
    [
        ((Tenant(3, 100, (10, 100)), Tenant(1, 100, (10, 100))), 1000, (3, 1)),
        ((Tenant(3, 80, (10, 100)), Tenant(1, 800, (10, 100))), 1000, (3, 1)),
        ((Tenant(1, 300, (5, 10)), Tenant(1, 100, (200, 400))), 1000, (1, 1)),
        ((Tenant(1, 40, (10, 10)), Tenant(1, 400, (10, 10))), 30, (1, 1)),
        (
            (
                *(Tenant(1, 400, (10, 100)), Tenant(2, 100, (10, 100))),
                Tenant(4, 100, (10, 100)),
            ),
            *(1000, (1, 2, 4)),
        ),
    ],
    ids=["alike", "eager", "large", "few", "three"],
)
def test_who_always_wants_more_gets_its_weight(tenants, capacity, expected):
    """However often a tenant asks, and whatever the size of its requests."""
    outcome = simulate(*tenants, capacity=capacity)

    shares = [units / sum(outcome.served) for units in outcome.served]
    wanted = [weight / sum(expected) for weight in expected]
    assert wanted == pytest.approx(shares, abs=0.05)
    assert min(outcome.refused) > 0
    assert outcome.peak <= 2 * capacity
    assert 0.9 * capacity <= outcome.mean <= 1.35 * capacity


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_tenant_costs_a_quiet_one_nothing(seed):
    """At 50 times the load, of twice the weight, with requests that last longer."""
    noisy = Tenant(2, 600, (10, 100), seconds=3.0)
    quiet = Tenant(1, 4, (10, 50))

    outcome = simulate(noisy, quiet, seed=seed)

    assert 0 == outcome.refused[1]
    assert outcome.refused[0] > 10 * outcome.served[1] / 30


def test_capacity_is_used_up_by_one_alone():
    """What nobody else wants is nobody's loss."""
    outcome = simulate(Tenant(1, 300, (10, 100)), Tenant(9, 0.01, (1, 1)))

    assert outcome.mean > 0.95 * CAPACITY
