"""What a refused client is told of when to come again."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.buckets import GRAINS, drain
from tollhouse.core.waits import (
    LEDGER_MS,
    LONGEST_MS,
    UNKNOWN_MS,
    Running,
    free_ms,
    landed_ms,
    refilled_ms,
)

NOW = 1_800_000_000_000
RATE = 6000
"""Units a minute: grains a millisecond; a unit takes 10 ms."""
TEN = Running(exchanges=10, oldest_ms=NOW - 1000, duration_ms=4000, refund=80 * GRAINS)
"""One of them ends every 800 ms, the first in 3,250 ms."""
LATE = replace(TEN, oldest_ms=NOW - 9000)
"""The first runs longer than usual."""


def refilled(promised_ms=0, running=None, units=100, missing=100):
    due = refilled_ms(
        *(NOW, promised_ms),
        missing=missing * GRAINS,
        cost=units * GRAINS,
        rate=RATE,
        running=running or Running(),
    )
    return due - NOW


def free(promised_ms=0, running=TEN):
    return free_ms(NOW, promised_ms, running) - NOW


def test_a_bucket_is_waited_for_until_it_has_room():
    assert 1000 == refilled()
    assert 500 == refilled(missing=50)


def test_who_is_refused_later_goes_behind():
    """Each has his own time; what was promised for the past counts for nothing."""
    assert 3000 == refilled(promised_ms=NOW + 2000)
    assert 1000 == refilled(promised_ms=NOW)
    assert 3250 == free(promised_ms=NOW)
    assert 4000 == free(promised_ms=NOW + 3200)


def test_the_earlier_of_refill_and_ends_is_told():
    """At first the bucket refills alone; then each end gives 80 units more."""
    assert 3250 == TEN.oldest_ms + TEN.duration_ms + LEDGER_MS - NOW
    assert 3000 == refilled(running=TEN, missing=300)
    assert 3255 == refilled(running=TEN, missing=326)
    # 175 more at 0.1 units a ms from the bucket and the same from ends
    assert 3250 + 875 == refilled(running=TEN, missing=325 + 175)


def test_what_runs_longer_than_usual_ends_a_little_later():
    """Not in the past: in the time of three ends, at most as long as one takes."""
    assert 2400 == free(running=LATE)
    assert 4000 == free(running=replace(LATE, exchanges=1))


@pytest.mark.parametrize("unknown", ["exchanges", "duration_ms", "refund"])
def test_without_experience_a_bucket_refills(unknown):
    running = replace(TEN, **{unknown: 0})

    assert 5000 == refilled(running=running, missing=500)


def test_without_experience_places_are_asked_for_again_soon():
    unknown = replace(LATE, duration_ms=0)

    assert 600 == free(running=unknown)
    assert UNKNOWN_MS + LEDGER_MS == free(running=replace(unknown, oldest_ms=NOW))


def test_what_is_in_flight_lands_evenly():
    """Twice the median for all of it; behind those who wait for it, too."""

    def landed(promised_ms, missing, **changes):
        told = {"cost": 100, "in_flight": 1000, "duration_ms": 4000} | changes
        return landed_ms(NOW, promised_ms, missing=missing, **told) - NOW

    assert 400 == landed(0, 50)
    assert 1300 == landed(NOW + 500, 50)
    assert 8000 == landed(0, 5000)
    assert 200 == landed(0, 100, duration_ms=0)


def test_nobody_is_told_more_than_it_can_take():
    """A promise that is not kept stands in the way of others for a minute at most."""
    assert LONGEST_MS == free(promised_ms=NOW + LONGEST_MS)
    assert LONGEST_MS == refilled(promised_ms=NOW + LONGEST_MS - 1)
    assert 70_000 == refilled(missing=7000)
    assert 70_000 == refilled(missing=7000, promised_ms=NOW + 69_999)


grains = st.integers(1, 10**10)
promises = st.one_of(st.just(0), st.integers(NOW - 1000, NOW + LONGEST_MS))
runnings = st.builds(
    Running,
    exchanges=st.integers(0, 500),
    oldest_ms=st.integers(NOW - 100_000, NOW),
    duration_ms=st.integers(0, 100_000),
    refund=grains,
)


@given(missing=grains, cost=grains, rate=st.integers(1, 10**6))
def test_a_refill_is_exact(missing, cost, rate):
    """Then the room is there, and a millisecond earlier it is not."""
    wait = refilled_ms(NOW, 0, missing=missing, cost=cost, rate=rate) - NOW

    assert 0 == drain(missing, rate, wait)
    assert drain(missing, rate, wait - 1) > 0


@given(
    promised=promises,
    missing=grains,
    cost=grains,
    rate=st.integers(1, 10**6),
    running=runnings,
)
def test_a_time_told_is_ahead_behind_the_others_and_bounded(
    promised, missing, cost, rate, running
):
    exact = refilled_ms(NOW, 0, missing=missing, cost=cost, rate=rate)
    latest = max(NOW + LONGEST_MS, exact)
    amounts = {"missing": missing, "cost": cost}
    waits = {
        refilled_ms(NOW, promised, **amounts, rate=rate, running=running): latest,
        free_ms(NOW, promised, running): NOW + LONGEST_MS,
        landed_ms(NOW, promised, **amounts, in_flight=missing, duration_ms=7): (
            NOW + LONGEST_MS
        ),
    }

    for due, bound in waits.items():
        assert NOW < due <= bound
        assert promised < due or due == bound
    alone = refilled_ms(NOW, 0, **amounts, rate=rate, running=running)
    assert alone <= exact
