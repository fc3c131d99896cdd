"""What a client reads about its limits."""

from tollhouse.core.limits import Quota, Refused
from tollhouse.core.problems import Kind
from tollhouse.core.ratelimit import over_limit, quota_fields


def test_writes_openais_headers_from_real_state():
    """SDKs and humans parse these names and durations."""
    assert {
        "limit-requests": "60",
        "remaining-requests": "9",
        "reset-requests": "1s",
        "limit-tokens": "1000",
        "remaining-tokens": "0",
        "reset-tokens": "6m0s",
    } == quota_fields(Quota(60, 9, 1.0), Quota(1000, 0, 360.0))


def test_leaves_out_a_limit_that_is_not_there():
    """No limit is no header, never a zero."""
    assert {} == quota_fields(None, None)


def test_a_short_wait_is_at_least_one_second_in_whole_seconds():
    """Retry-After knows no fractions, and 0 would mean at once."""
    problem = over_limit(Refused("units", "key", 0.12, 1000, 3, None, None))

    assert ("1", "120") == (
        problem.headers["retry-after"],
        problem.headers["retry-after-ms"],
    )
    assert Kind.RATE_LIMITED is problem.kind


def test_names_whose_limit_it_is():
    """A tenant's admin must know which knob to turn."""
    problem = over_limit(Refused("concurrent", "tenant_model", 1.0, 5, 0, None, None))

    assert "5 concurrent requests of your organisation" in problem.message
