"""The arithmetic of buckets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.buckets import GRAINS, Bucket, correct, drain, quota, wait_ms
from tollhouse.core.limits import (
    LONGEST_BURST_SECONDS,
    MONEY,
    MOST,
    MOST_MONEY,
    MOST_PER_MINUTE,
    Limit,
    Measure,
    Scope,
)
from tollhouse.core.reservation import Quota

rates = st.integers(1, 10**7)
amounts = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("value", "burst", "requests", "units"),
    [
        (600, 10, 100 * GRAINS, 100 * GRAINS),
        (6000, 2.5, 250 * GRAINS, 250 * GRAINS),
        (1, 10, GRAINS, 10_000),
        (60, 0.5, GRAINS, 30_000),
        (0, 10, 0, 0),
    ],
)
def test_a_bucket_holds_the_burst(value, burst, requests, units):
    """Seconds of the limit; for requests at least one; nothing where nothing goes."""
    for measure, capacity in ((Measure.REQUESTS, requests), (Measure.UNITS, units)):
        limit = Limit(Scope.KEY, measure, value, burst=burst)

        assert Bucket(value, capacity) == Bucket.of(limit)


@given(used=amounts, rate=rates, ms=st.integers(0, 10**6), more=st.integers(0, 10**6))
def test_draining_in_steps_is_draining_at_once(used, rate, ms, more):
    """Nothing is rounded away, however often a bucket is looked at."""
    assert drain(used, rate, ms + more) == drain(drain(used, rate, ms), rate, more)


def test_a_clock_that_went_back_drains_nothing():
    assert 500 == drain(500, 100, -3)


def test_a_refund_never_leaves_a_credit():
    """A bucket is empty at best: nobody saves up refunds for a second burst."""
    assert 0 == correct(100, -200)
    assert 300 == correct(100, 200)


@given(used=amounts, cost=amounts, rate=rates, capacity=amounts)
def test_the_wait_is_exact(used, cost, rate, capacity):
    """After it the cost fits; a millisecond earlier it does not."""
    bucket = Bucket(rate, capacity)
    wait = wait_ms(used, cost, bucket)

    if cost > capacity:
        assert math.inf == wait
        return
    assert drain(used, rate, int(wait)) + cost <= capacity
    if wait:
        assert drain(used, rate, int(wait) - 1) + cost > capacity


def test_remaining_is_what_fits_now():
    """Debt shows as nothing left, and as the time until all is drained."""
    bucket = Bucket(600, 100 * GRAINS)

    assert Quota(600, 100, 0.0) == quota(bucket, 0)
    assert Quota(600, 98, 0.1001) == quota(bucket, 60_060)
    assert Quota(600, 0, 20.0) == quota(bucket, 200 * GRAINS)
    assert Quota(0, 0, 0.0) == quota(Bucket(0, 0), 0)


def test_redis_counts_the_largest_limits():
    """Any rate with any burst, and any sum of money, in the doubles of its scripts."""
    limit = Limit(
        Scope.KEY, Measure.UNITS, MOST_PER_MINUTE, burst=LONGEST_BURST_SECONDS
    )

    assert Bucket.of(limit).capacity < MOST
    assert MOST_MONEY * MONEY < MOST
