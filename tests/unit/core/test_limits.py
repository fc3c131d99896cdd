"""Buckets, which limit binds, and what a client is told of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.limits import (
    CONCURRENT_WAIT_MS,
    GRAINS,
    Allowance,
    Bucket,
    Granted,
    Limits,
    Quota,
    Refused,
    correct,
    debits,
    drain,
    format_reset,
    quota,
    wait_ms,
)

rates = st.integers(1, 10**7)
amounts = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("allowance", "requests", "units"),
    [
        (Allowance(), None, None),
        (Allowance(600, 6000), Bucket(600, 100 * GRAINS), Bucket(6000, 1000 * GRAINS)),
        (Allowance(1, 1), Bucket(1, GRAINS), Bucket(1, 10_000)),
        (Allowance(0, 0), Bucket(0, 0), Bucket(0, 0)),
        (
            Allowance(60, 60, burst_seconds=0.5),
            Bucket(60, GRAINS),
            Bucket(60, 30_000),
        ),
    ],
)
def test_a_bucket_holds_the_burst(allowance, requests, units):
    """Seconds of the limit; for requests at least one; nothing where nothing goes."""
    assert (requests, units) == (allowance.requests(), allowance.units())


def test_debits_are_the_refills_in_the_scripts_order():
    assert (1, 2, 0, 4) == debits(Allowance(1, 2), Allowance(None, 4))


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


LIMITS = Limits(Allowance(600, 6000, 3), Allowance(1200, 6000, 4))


@pytest.mark.parametrize(
    ("state", "units", "expected"),
    [
        ((0, 0, 0, 0, 0, 0), 1000, None),
        ((0, 0, 0, 0, 2, 3), 1000, None),
        ((0, 0, 0, 0, 0, 0), 1001, (1, math.inf)),
        ((100 * GRAINS, 0, 0, 0, 0, 0), 1, (0, 100)),
        ((0, 0, 200 * GRAINS, 0, 0, 0), 1, (2, 50)),
        ((0, 1000 * GRAINS, 0, 1000 * GRAINS, 0, 0), 1, (1, 10)),
        ((0, 1000 * GRAINS, 0, 1001 * GRAINS, 0, 0), 1, (3, 20)),
        ((0, 0, 0, 0, 3, 0), 1, (4, CONCURRENT_WAIT_MS)),
        ((0, 0, 0, 0, 0, 4), 1, (5, CONCURRENT_WAIT_MS)),
        ((0, 1000 * GRAINS, 0, 0, 3, 4), 101, (1, 1010)),
    ],
)
def test_the_limit_with_the_longest_wait_binds(state, units, expected):
    """So a retry after its wait finds room in the others, too."""
    assert expected == LIMITS.binding(units, state)


def test_no_limit_never_binds():
    nothing = Limits(Allowance(), Allowance())

    assert None is nothing.binding(10**9, (0, 0, 0, 0, 10**6, 10**6))
    assert Granted(None, None) == nothing.granted((0,) * 6)


def test_a_limit_of_nothing_lets_nothing_in():
    closed = Limits(Allowance(), Allowance(concurrent=0))

    assert (5, math.inf) == closed.binding(0, (0,) * 6)


def test_the_tightest_scope_is_told():
    state = (10 * GRAINS, 0, 150 * GRAINS, 999 * GRAINS, 0, 0)

    assert Granted(Quota(1200, 50, 7.5), Quota(6000, 1, 9.99)) == LIMITS.granted(state)


def test_a_scope_without_the_limit_is_not_the_tightest():
    limits = Limits(Allowance(), Allowance(600))

    assert Granted(Quota(600, 100, 0.0), None) == limits.granted((0,) * 6)


@pytest.mark.parametrize(
    ("index", "wait", "expected"),
    [
        (0, 250, ("requests", "key", 0.25, 600, 99)),
        (1, math.inf, ("units", "key", None, 6000, 998)),
        (2, 1, ("requests", "tenant_model", 0.001, 1200, 197)),
        (3, 1, ("units", "tenant_model", 0.001, 6000, 996)),
        (4, 1000, ("concurrent", "key", 1.0, 3, 0)),
        (5, 1000, ("concurrent", "tenant_model", 1.0, 4, 2)),
    ],
)
def test_a_refusal_names_limit_and_scope(index, wait, expected):
    state = (GRAINS, 2 * GRAINS, 3 * GRAINS, 4 * GRAINS, 5, 2)
    name, scope, after, limit, remaining = expected
    refused = LIMITS.refused(state, index, wait)

    told = LIMITS.granted(state)
    assert (
        Refused(name, scope, after, limit, remaining, told.requests, told.units)
        == refused
    )


def test_a_limit_that_went_away_meanwhile_is_told_as_nothing():
    """The script refused by limits that a reload then dropped."""
    refused = Limits(Allowance(), Allowance()).refused((0,) * 6, 1, 5)

    assert Refused("units", "key", 0.005, 0, 0, None, None) == refused


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.12, "120ms"),
        (0.0001, "1ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (7.66, "7.66s"),
        (59.9996, "1m0s"),
        (360, "6m0s"),
        (61.5, "1m1.5s"),
        (3600, "1h0m0s"),
        (86_399.25, "23h59m59.25s"),
    ],
)
def test_resets_are_written_as_openai_does(seconds, text):
    """https://platform.openai.com/docs/guides/rate-limits: `1s`, `6m0s`."""
    assert text == format_reset(seconds)
