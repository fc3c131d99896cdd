"""What a client reads about its limits."""

import pytest

from tollhouse.core.limits import MONEY, Limit, Measure, Scope
from tollhouse.core.problems import Kind, Problem
from tollhouse.core.ratelimit import format_reset, over_limit, quota_fields
from tollhouse.core.reservation import Quota, Refused

NOV_20 = 1_795_132_800_000 + 12 * 3_600_000
"""Noon of 2026-11-20, UTC."""


def refusal(limit, wait=None, remaining=0, requests=None, units=None):
    refused = Refused(limit, wait, remaining, (remaining,), requests, units)
    return over_limit(refused, NOV_20)


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9999, "1m0s"),
        (360, "6m0s"),
        (3661.25, "1h1m1.25s"),
    ],
)
def test_writes_a_duration_as_openai_does(seconds, text):
    """Rounded up: a client must not come back a millisecond early."""
    assert text == format_reset(seconds)


def test_names_the_limit_and_whose_it_is():
    """A tenant's admin must know which knob to turn; a program reads the same."""
    problem = refusal(Limit(Scope.TENANT_MODEL, Measure.CONCURRENT, 5), wait=1.0)

    assert (
        "Over the limit of 5 concurrent requests of your organisation on this model; "
        "try again in 1s." == problem.message
    )
    assert {
        "scope": "tenant_model",
        "measure": "concurrent",
        "value": 5,
        "remaining": 0,
    } == problem.error()["limit"]


@pytest.mark.parametrize(
    ("limit", "wait", "word"),
    [
        (Limit(Scope.KEY, Measure.REQUESTS, 5), 1.0, "rate_limited:key.requests"),
        (Limit(Scope.MODEL, Measure.CAPACITY, 5), None, "never_fits:model.capacity"),
        (
            Limit(Scope.TENANT, Measure.MONEY_PER_DAY, MONEY),
            None,
            "insufficient_quota:tenant.money_per_day",
        ),
    ],
)
def test_a_word_says_which_limit_refused(limit, wait, word):
    """For access logs, which have no room for more."""
    assert word == refusal(limit, wait=wait).word
    assert "invalid_request" == Problem(Kind.INVALID_REQUEST, "Any text.").word


def test_a_short_wait_is_at_least_one_second_in_whole_seconds():
    """Retry-After knows no fractions, and 0 would mean at once."""
    problem = refusal(Limit(Scope.KEY, Measure.UNITS, 1000), wait=0.12, remaining=3)

    assert ("1", "120") == (
        problem.headers["retry-after"],
        problem.headers["retry-after-ms"],
    )
    assert Kind.RATE_LIMITED is problem.kind


def test_what_all_share_is_named_without_its_numbers():
    """How much the other tenants use is not this client's business."""
    shared = [
        Limit(Scope.MODEL, Measure.UNITS, 123_456),
        Limit(Scope.GLOBAL, Measure.CONCURRENT, 123_456),
        Limit(Scope.MODEL, Measure.CAPACITY, 123_456),
        Limit(Scope.MODEL, Measure.UNITS_PER_DAY, 123_456),
    ]
    for limit in shared:
        wait = None if limit.measure.is_budget else 2.0
        problem = refusal(limit, wait=wait, remaining=654)

        assert b"123456" not in problem.body()
        assert b"654" not in problem.body()
        assert limit.scope.name.lower() == problem.error()["limit"]["scope"]


def test_a_request_larger_than_its_limit_is_not_tried_again():
    """openai-python obeys x-should-retry, and waits for no Retry-After."""
    problem = refusal(Limit(Scope.KEY, Measure.UNITS, 1000), remaining=166)

    assert Kind.NEVER_FITS is problem.kind
    assert {"x-should-retry": "false"} == problem.headers
    assert (
        "This request is larger than the limit of 1000 units per minute of this API key"
        " admits at once (166); send less text or ask for fewer tokens (`max_tokens`)."
    ) == problem.message


def test_a_request_larger_than_a_whole_budget_is_not_told_to_wait_for_the_next():
    """Nothing is spent and it does not fit: the next period helps nobody."""
    limit = Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 1000)
    problem = refusal(limit, remaining=1000)

    assert Kind.NEVER_FITS is problem.kind
    assert {"x-should-retry": "false"} == problem.headers
    assert problem.message.startswith(
        "This request is larger than the limit of 1000 units per day of your "
        "organisation; send less text"
    )


def test_a_budget_with_something_left_is_not_called_used_up():
    """A smaller request fits still."""
    limit = Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 1000)

    assert "has 7 left, too little for this request" in (
        refusal(limit, remaining=7).message
    )
    assert "is used up" in refusal(limit, remaining=0).message


@pytest.mark.parametrize(
    ("measure", "zone", "ends"),
    [
        (Measure.UNITS_PER_DAY, "UTC", "2026-11-21T00:00:00+00:00"),
        (Measure.UNITS_PER_MONTH, "Europe/Berlin", "2026-12-01T00:00:00+01:00"),
        (Measure.UNITS_PER_DAY, "Asia/Kolkata", "2026-11-21T00:00:00+05:30"),
    ],
)
def test_a_budget_that_is_used_up_names_its_end_in_the_tenants_zone(
    measure, zone, ends
):
    """As OpenAI's insufficient_quota: retrying is useless, an admin must act."""
    problem = refusal(Limit(Scope.TENANT, measure, 10_000, zone=zone))

    assert ("insufficient_quota", "insufficient_quota", 429) == (
        problem.error()["type"],
        problem.error()["code"],
        problem.status,
    )
    assert {"x-should-retry": "false"} == problem.headers
    assert problem.message.endswith(f"starts anew at {ends}.")


def test_money_is_told_in_the_currency():
    """Nobody reads ten-billionths."""
    limit = Limit(Scope.TENANT, Measure.MONEY_PER_MONTH, 12 * MONEY + MONEY // 2)
    problem = refusal(limit, remaining=MONEY // 4)

    assert problem.message.startswith(
        "The limit of 12.50 on spending per month of your organisation has 0.25 left, "
        "too little for this request; it starts anew at "
    )
    assert (12.5, 0.25) == (
        problem.error()["limit"]["value"],
        problem.error()["limit"]["remaining"],
    )
