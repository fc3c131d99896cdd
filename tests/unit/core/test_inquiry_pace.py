"""Nobody keeps a backend busy with questions that no limit counts."""

import pytest

from tollhouse.core.inquiry_pace import AT_ONCE, PER_MINUTE, InquiryPace
from tollhouse.core.problems import Problem

NOW = 1_790_000_000_000


def _asked(pace: InquiryPace, key_id: str, times: int, at_ms: int) -> int:
    """How many of them are let through."""
    passed = 0
    for _ in range(times):
        try:
            pace.take(key_id, at_ms)
        except Problem:
            continue
        passed += 1
    return passed


def test_a_burst_and_then_the_rate():
    """Each key has its own; a minute of asking without end is its rate."""
    pace = InquiryPace()

    assert AT_ONCE == _asked(pace, "k1", 1000, NOW)
    assert AT_ONCE == _asked(pace, "k2", 1000, NOW)
    minute = range(NOW + 10, NOW + 60_001, 10)
    assert PER_MINUTE == sum(_asked(pace, "k1", 1, at) for at in minute)


def test_the_wait_is_told_and_true():
    """Who waits as told is let through, and not a millisecond before."""
    pace = InquiryPace()
    _asked(pace, "k1", AT_ONCE, NOW)

    with pytest.raises(Problem) as caught:
        pace.take("k1", NOW)

    headers = caught.value.headers
    wait = int(headers["retry-after-ms"])
    assert (429, "1") == (caught.value.status, headers["retry-after"])
    assert 0 == _asked(pace, "k1", 1, NOW + wait - 1)
    assert 1 == _asked(pace, "k1", 1, NOW + wait)


def test_memory_is_bounded():
    """Keys that asked long ago are forgotten first."""
    pace = InquiryPace()
    _asked(pace, "old", AT_ONCE, NOW)
    _asked(pace, "kept", AT_ONCE, NOW)
    for number in range(9_999):
        pace.take(f"k{number}", NOW)

    assert 10_000 == len(pace._used)
    assert 0 == _asked(pace, "kept", 1, NOW)
    assert 1 == _asked(pace, "old", 1, NOW)
