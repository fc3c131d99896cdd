"""WHEN of `tollhouse usage --since`."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tollhouse.cli.usage import parse_since

NOW = datetime(2026, 11, 20, 18, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("2h", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
        ("1w", NOW - timedelta(days=7)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T10:00", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("2026-11-01 10:00:30Z", datetime(2026, 11, 1, 10, 0, 30, tzinfo=UTC)),
        (
            "2026-11-01T10:00+01:00",
            datetime(2026, 11, 1, 10, tzinfo=timezone(timedelta(hours=1))),
        ),
    ],
)
def test_ages_and_iso_times_are_understood(text: str, moment: datetime):
    assert moment == parse_since(text, NOW)


@pytest.mark.parametrize(
    "text", ["", "soon", "2", "h", "-2h", "2y", "2026-13-01", "1 h"]
)
def test_anything_else_is_refused(text: str):
    with pytest.raises(ValueError):  # noqa: PT011 - the caller writes the message
        parse_since(text, NOW)
