"""Calendar periods of budgets: days and months of a time zone.

A period is named by a number that sorts and reads: 20261120 is a day, 202611 a month.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from tollhouse.core.limits import Measure

QUARTER_MS = 900_000
"""Whichever the zone, a period lasts whole quarters of an hour."""

KEPT = timedelta(days=3, hours=14)
"""For how long an ended period takes late settlements; zones are up to 14 hours off."""


@dataclass(frozen=True, slots=True)
class Period:
    """One period; it lasts from `starts_ms` up to `ends_ms`, Unix milliseconds."""

    number: int
    starts_ms: int
    ends_ms: int


def check_zone(name: str) -> str:
    """Return a time zone's IANA name. Raises ValueError for one that is none."""
    # `localtime` is another zone on every machine.
    known = available_timezones() - {"localtime"}
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "name one as Europe/Berlin"
        raise ValueError(f"time zone {name!r} is not known; {hint}")
    return name


def is_zone(name: str) -> bool:
    """Whether budgets can follow this time zone here; quick."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def period(measure: Measure, zone: str, at_ms: int) -> Period:
    """Find the period of a budget that a moment lies in.

    `zone` is an IANA name; raises ZoneInfoNotFoundError for another. Days are as long
    as the zone makes them: 23 or 25 hours when clocks change.
    """
    # By the quarter of an hour: no zone's date changes within one.
    return _period(measure.is_daily, zone, at_ms // QUARTER_MS)


@lru_cache(maxsize=1024)
def _period(daily: bool, zone: str, quarter: int) -> Period:  # noqa: FBT001
    place = ZoneInfo(zone)
    here = datetime.fromtimestamp(quarter * QUARTER_MS / 1000, UTC).astimezone(place)
    first = here.date() if daily else here.date().replace(day=1)
    # The month of a day in the next one: 31 days after the first is always in it.
    after = first + timedelta(days=1 if daily else 31)
    after = after if daily else after.replace(day=1)
    number = first.year * 100 + first.month
    return Period(
        number=number * 100 + first.day if daily else number,
        starts_ms=_midnight(first.year, first.month, first.day, place),
        ends_ms=_midnight(after.year, after.month, after.day, place),
    )


def _midnight(year: int, month: int, day: int, place: ZoneInfo) -> int:
    return round(datetime(year, month, day, tzinfo=place).timestamp() * 1000)


@lru_cache(maxsize=1024)
def forgotten_ms(measure: Measure, number: int) -> int:
    """When nothing counts in a period any more: `KEPT` after 31 days of a month."""
    day = number if measure.is_daily else number * 100 + 1
    first = datetime(day // 10_000, day // 100 % 100, day % 100, tzinfo=UTC)
    length = timedelta(days=1 if measure.is_daily else 31)
    return round((first + length + KEPT).timestamp() * 1000)
