"""Which limit binds, and what a client is told of it."""

import math

import pytest
from msgspec.structs import replace

from tests.unit.core.test_usage import FACTS
from tollhouse.core.buckets import GRAINS
from tollhouse.core.limits import Debit, Limit, Measure, Scope
from tollhouse.core.reservation import Granted, Quota, Refused, Reservation
from tollhouse.core.room import (
    BUSY_WAIT_MS,
    Costs,
    Judgement,
    debit,
    granted,
    judge,
    refused,
    wait_ms,
)

NOV_30 = 1_796_080_800_000
"""2026-11-30 23:20 UTC; a month later in Berlin."""
MINUTE = Limit(Scope.KEY, Measure.REQUESTS, 600)
UNITS = Limit(Scope.TENANT, Measure.UNITS, 6000)
PLACES = Limit(Scope.KEY, Measure.CONCURRENT, 3)
DAY = Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 1000)
MONTH = Limit(Scope.TENANT, Measure.MONEY_PER_MONTH, 5000, zone="Europe/Berlin")
FLIGHT = Limit(Scope.MODEL, Measure.CAPACITY, 500, weight=4)


def shadow(limit):
    return Limit(limit.scope, limit.measure, limit.value, shadow=True)


def test_costs_are_what_is_reserved():
    """Money by the prices of input and output; what is cached shows only later."""
    costs = Costs.of(Reservation("id", FACTS, ()))

    assert Costs(units=110, money=10 * 3 + 20 * 7) == costs
    assert [GRAINS, 110 * GRAINS, 1, 110, 110, 170, 170, 110] == [
        costs.of_measure(measure) for measure in Measure
    ]


def test_the_margin_is_reserved_in_money_too():
    """Whatever input weighs; the facts' units have it already."""
    free = replace(FACTS, weights=(0, 0, 5), reserved_units=100)
    for facts in (FACTS, free):
        costs = Costs.of(Reservation("id", facts, (), margin=4))

        assert Costs(facts.reserved_units, (10 + 4) * 3 + 20 * 7) == costs


@pytest.mark.parametrize(
    ("limit", "cost", "level", "wait"),
    [
        (MINUTE, GRAINS, 99 * GRAINS, 0),
        (MINUTE, GRAINS, 100 * GRAINS, 100),
        (UNITS, 1000 * GRAINS, 0, 0),
        (UNITS, 1001 * GRAINS, 0, math.inf),
        (UNITS, 1000 * GRAINS, 1, 1),
        (UNITS, 1000 * GRAINS, 5000 * GRAINS, 50_000),
        (PLACES, 1, 2, 0),
        (PLACES, 1, 3, BUSY_WAIT_MS),
        (DAY, 100, 900, 0),
        (DAY, 101, 900, math.inf),
        (MONTH, 5000, 0, 0),
        (MONTH, 0, 5001, math.inf),
        (FLIGHT, 100, 400, 0),
        (FLIGHT, 101, 400, BUSY_WAIT_MS),
        (FLIGHT, 501, 0, 0),
    ],
)
def test_a_limit_knows_when_a_cost_fits(limit, cost, level, wait):
    assert wait == wait_ms(limit, cost, level)


@pytest.mark.parametrize("measure", Measure)
def test_a_limit_of_nothing_lets_nothing_in(measure):
    """Not even what costs nothing."""
    assert math.inf == wait_ms(Limit(Scope.KEY, measure, 0), 0, 0)


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        ((0, 0, 0), (None, 0, ())),
        ((0, 30, 20), (1, 30, ())),
        ((20, 30, 30), (1, 30, ())),
        ((20, 30, math.inf), (2, math.inf, ())),
    ],
)
def test_the_limit_with_the_longest_wait_binds(waits, expected):
    """So a retry after its wait finds room in the others, too."""
    assert Judgement(*expected) == judge((MINUTE, UNITS, DAY), waits)
    assert Judgement(None, 0, ()) == judge((), ())


def test_a_shadow_never_binds():
    """It is noted, whoever else does."""
    limits = (shadow(DAY), UNITS, shadow(MINUTE), shadow(PLACES))

    assert Judgement(None, 0, (0,)) == judge(limits, (math.inf, 0, 0, 0))
    assert Judgement(1, 5, (2, 3)) == judge(limits, (0, 5, 70, 1000))


@pytest.mark.parametrize(
    ("limit", "parameter"),
    [
        (MINUTE, 600),
        (UNITS, 6000),
        (PLACES, 0),
        (DAY, 20261130),
        (MONTH, 202612),
        (FLIGHT, 4),
    ],
)
def test_a_debit_says_what_correcting_needs(limit, parameter):
    """Refill, period where the tenant is, or weight."""
    assert Debit(limit.scope, limit.measure, parameter) == debit(limit, NOV_30)


def test_granted_tells_the_tightest_bucket_of_all_scopes():
    """But of those in shadow: they keep nobody out."""
    wide = Limit(Scope.GLOBAL, Measure.REQUESTS, 6000)
    limits = (wide, MINUTE, UNITS, shadow(MINUTE), PLACES, wide)
    levels = (10 * GRAINS, 40 * GRAINS, 999 * GRAINS, 100 * GRAINS, 1, 0)
    debits = (debit(MINUTE, NOV_30),)

    assert Granted(
        debits,
        levels,
        Quota(600, 60, 4.0),
        Quota(6000, 1, 9.99),
        (limits[3],),
    ) == granted(limits, levels, debits, [3])


def test_what_all_tenants_share_is_told_to_none():
    """However tight: a client would read from it what the others do."""
    shared = Limit(Scope.MODEL, Measure.UNITS, 600)
    limits, levels = (MINUTE, shared, UNITS), (0, 99 * GRAINS, 0)
    told = granted(limits, levels, (), ())

    assert Quota(6000, 1000, 0.0) == told.units
    assert told.units == refused(limits, levels, 1, 1000).units
    assert refused((shared,), (0,), 0, 1000).units is None


def test_no_bucket_no_quota():
    assert Granted((), (2, 3), None, None) == granted((PLACES, DAY), (2, 3), (), ())


@pytest.mark.parametrize(
    ("index", "wait", "expected"),
    [
        (0, 250, (0.25, 60)),
        (1, math.inf, (None, 1)),
        (2, 1000, (1.0, 0)),
        (3, math.inf, (None, 100)),
        (4, 1, (0.001, 0)),
    ],
)
def test_a_refusal_names_the_limit(index, wait, expected):
    """With what is left of it, never less than nothing."""
    limits = (MINUTE, UNITS, PLACES, DAY, FLIGHT)
    levels = (40 * GRAINS, 999 * GRAINS, 4, 900, 700)

    told = refused(limits, levels, index, wait)

    assert limits[index] == told.limit
    assert expected == (told.retry_after_seconds, told.remaining)
    assert (levels, Quota(600, 60, 4.0), Quota(6000, 1, 9.99)) == (
        told.levels,
        told.requests,
        told.units,
    )


def test_what_was_not_looked_at_is_not_told():
    """The fleet refused before the tenant's limits were asked."""
    limits = (MINUTE, FLIGHT)

    assert Refused(FLIGHT, 1.0, 0, (0, 500), None, None) == refused(
        limits, (None, 500), 1, 1000
    )
