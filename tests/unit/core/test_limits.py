"""Which limits there are, and what kind each is."""

import pytest

from tollhouse.core.limits import Allowance, Limit, Measure, Scope


def test_an_allowance_yields_the_limits_that_are_there():
    """None is no limit, 0 is one: it admits nothing."""
    allowance = Allowance(
        requests_per_minute=60, concurrent=0, money_per_month=5, burst_seconds=3
    )

    assert [
        Limit(Scope.TENANT, Measure.REQUESTS, 60, burst=3, zone="Asia/Tokyo"),
        Limit(Scope.TENANT, Measure.CONCURRENT, 0, burst=3, zone="Asia/Tokyo"),
        Limit(Scope.TENANT, Measure.MONEY_PER_MONTH, 5, burst=3, zone="Asia/Tokyo"),
    ] == list(allowance.limits(Scope.TENANT, "Asia/Tokyo"))
    assert [] == list(Allowance().limits(Scope.KEY, "UTC"))


def test_each_measure_has_its_limit():
    """But capacity, which belongs to a model, not to an allowance."""
    full = Allowance(1, 2, 3, 4, 5, 6, 7)
    limits = list(full.limits(Scope.KEY, "UTC"))

    assert [it for it in Measure if it is not Measure.CAPACITY] == [
        it.measure for it in limits
    ]
    assert [1, 2, 3, 4, 5, 6, 7] == [it.value for it in limits]


def test_shadow_is_of_all_limits_of_an_allowance():
    limits = Allowance(1, 2, shadow=True).limits(Scope.GLOBAL, "UTC")

    assert [True, True] == [it.shadow for it in limits]


@pytest.mark.parametrize(
    ("measure", "kinds"),
    [
        (Measure.REQUESTS, (True, False, False, False)),
        (Measure.UNITS, (True, False, False, False)),
        (Measure.CONCURRENT, (False, False, False, False)),
        (Measure.UNITS_PER_DAY, (False, True, False, True)),
        (Measure.UNITS_PER_MONTH, (False, True, False, False)),
        (Measure.MONEY_PER_DAY, (False, True, True, True)),
        (Measure.MONEY_PER_MONTH, (False, True, True, False)),
        (Measure.CAPACITY, (False, False, False, False)),
    ],
)
def test_a_measure_knows_its_kind(measure, kinds):
    """Bucket, budget, of money, of a day."""
    assert kinds == (
        measure.is_bucket,
        measure.is_budget,
        measure.is_money,
        measure.is_daily,
    )


def test_what_tenants_share_is_the_fleets():
    assert {Scope.MODEL, Scope.GLOBAL} == {scope for scope in Scope if scope.is_fleet}
