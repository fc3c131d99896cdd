"""Times and dates as they are written on the command line."""

import re
from datetime import UTC, datetime

from tollhouse.core.key_terms import parse_moment

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()  # no later one can be shown


def parse_duration(text: str, option: str) -> float:
    """Seconds of 90s, 5m, 12h, 30d, 8w. Raises ValueError."""
    duration = _DURATION.fullmatch(text)
    if duration is None:
        raise ValueError(f"{option} {text!r}: write 90s, 5m, 12h, 30d or 8w")
    return float(int(duration[1]) * _SECONDS[duration[2]])


def parse_expiry(text: str, now: float) -> float:
    """Unix seconds of a duration from `now` or of a date. Raises ValueError."""
    expires_at = _parse(text, "--expires", now, 1)
    if expires_at > _LATEST:
        raise ValueError(f"--expires {text!r}: the latest is 9999-12-31")
    return expires_at


def parse_since(text: str, now: float) -> float:
    """Unix seconds of a duration before `now` or of a date. Raises ValueError."""
    return _parse(text, "--since", now, -1)


def _parse(text: str, option: str, now: float, direction: int) -> float:
    if _DURATION.fullmatch(text):
        return now + direction * parse_duration(text, option)
    try:
        return parse_moment(text)
    except ValueError:
        raise ValueError(
            f"{option} {text!r}: write 30d, 12h or a date such as 2030-01-31"
        ) from None
