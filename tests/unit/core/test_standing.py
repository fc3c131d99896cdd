"""How limits stand: what an operator reads of a level."""

from datetime import UTC, datetime

import pytest

from tollhouse.core.buckets import GRAINS
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.standing import Standing, standing

NOON_MS = round(datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp() * 1000)
HOUR = 3600.0


@pytest.mark.parametrize(
    ("measure", "level", "expected"),
    [
        (Measure.UNITS, 0, Standing(0, 100, 0.0)),
        (Measure.UNITS, 40 * GRAINS + 1, Standing(41, 59, 4 + 1 / 600_000)),
        (Measure.UNITS, 130 * GRAINS, Standing(130, 0, 13.0)),
        (Measure.CONCURRENT, 7, Standing(7, 593, None)),
        (Measure.CAPACITY, 700, Standing(700, 0, None)),
        (Measure.UNITS_PER_DAY, 250, Standing(250, 350, 12 * HOUR)),
        (Measure.MONEY_PER_MONTH, 601, Standing(601, 0, 36 * HOUR)),
    ],
)
def test_each_measure(measure, level, expected):
    """Buckets drain, periods end, exchanges end when they like."""
    limit = Limit(Scope.TENANT, measure, 600)

    assert expected == standing(limit, level, NOON_MS)


def test_periods_are_those_of_the_zone():
    """In Kolkata it is half past five in the afternoon."""
    limit = Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 600, zone="Asia/Kolkata")

    assert 6.5 * HOUR == standing(limit, 0, NOON_MS).resets_in_seconds
