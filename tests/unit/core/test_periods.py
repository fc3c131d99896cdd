"""Days and months of the world's time zones."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.limits import Measure
from tollhouse.core.periods import KEPT, forgotten_ms, period

HOUR = 3_600_000
DAY, MONTH = Measure.UNITS_PER_DAY, Measure.MONEY_PER_MONTH
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",  # 5:45
    "Australia/Lord_Howe",  # half an hour of summer time
    "Africa/Cairo",  # clocks change at midnight
    "America/Havana",  # back to midnight, after one
    "Pacific/Kiritimati",  # 14 hours ahead
    "Etc/GMT+12",
)
zones = st.sampled_from(ZONES)
moments = st.integers(1_600_000_000_000, 2_000_000_000_000)


def at(text):
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@given(measure=st.sampled_from([DAY, MONTH]), zone=zones, at_ms=moments)
def test_every_moment_is_in_one_period(measure, zone, at_ms):
    """The one whose date it has there; the next begins where it ends."""
    found = period(measure, zone, at_ms)
    here = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(ZoneInfo(zone))

    assert found.starts_ms <= at_ms < found.ends_ms
    assert f"{found.number}" == here.strftime("%Y%m%d" if measure is DAY else "%Y%m")
    for moment in (found.starts_ms, found.ends_ms - 1):
        assert found == period(measure, zone, moment)
    following = period(measure, zone, found.ends_ms)
    assert following.number > found.number
    assert following.starts_ms == found.ends_ms
    kept_ms = forgotten_ms(measure, found.number) - found.ends_ms
    assert 3 * 24 * HOUR <= kept_ms <= 8 * 24 * HOUR


@pytest.mark.parametrize(
    ("zone", "noon", "hours"),
    [
        ("Europe/Berlin", "2027-03-28T12:00+02:00", 23),
        ("Europe/Berlin", "2027-10-31T12:00+01:00", 25),
        ("Europe/Berlin", "2027-06-01T12:00+02:00", 24),
        ("UTC", "2027-03-28T12:00+00:00", 24),
        ("Australia/Lord_Howe", "2027-04-04T12:00+10:30", 24.5),
        ("Africa/Cairo", "2027-04-30T12:00+03:00", 23),
    ],
)
def test_days_are_as_long_as_the_clocks_make_them(zone, noon, hours):
    found = period(DAY, zone, at(noon))

    assert hours * HOUR == found.ends_ms - found.starts_ms


def test_a_month_ends_when_it_does_where_the_tenant_is():
    """Berlin's February begins an hour before London's."""
    moment = at("2027-01-31T23:30+00:00")

    assert 202702 == period(MONTH, "Europe/Berlin", moment).number
    assert 202701 == period(MONTH, "UTC", moment).number
    december = period(MONTH, "UTC", at("2027-12-31T23:59+00:00"))
    assert (202712, at("2028-01-01T00:00+00:00")) == (
        december.number,
        december.ends_ms,
    )


def test_ended_periods_are_forgotten_days_later():
    """When no zone is in them any more, and late settlements have come."""
    kept_ms = KEPT.total_seconds() * 1000

    assert at("2028-01-01T00:00+00:00") + kept_ms == forgotten_ms(DAY, 20271231)
    assert at("2027-02-01T00:00+00:00") + kept_ms == forgotten_ms(MONTH, 202701)
