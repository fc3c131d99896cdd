"""What a client is told about its limits: OpenAI's headers, and the 429.

`x-ratelimit-*-tokens` carry units: with weights of 1 these are tokens.
"""

import math
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from tollhouse.core.buckets import GRAINS, Bucket
from tollhouse.core.limits import MONEY, Limit, Measure, Scope
from tollhouse.core.periods import period
from tollhouse.core.problems import Kind, Problem
from tollhouse.core.reservation import Quota, Refused

_WHOSE = {
    Scope.KEY: "this API key",
    Scope.TENANT: "your organisation",
    Scope.TENANT_MODEL: "your organisation on this model",
    Scope.MODEL: "this model, all organisations together",
    Scope.GLOBAL: "this gateway, all organisations together",
}
_WHAT = {
    Measure.REQUESTS: "requests per minute",
    Measure.UNITS: "units per minute",
    Measure.CONCURRENT: "concurrent requests",
    Measure.UNITS_PER_DAY: "units per day",
    Measure.UNITS_PER_MONTH: "units per month",
    Measure.MONEY_PER_DAY: "spending per day",
    Measure.MONEY_PER_MONTH: "spending per month",
}


def quota_fields(requests: Quota | None, units: Quota | None) -> dict[str, str]:
    """Header name without `x-ratelimit-` → value; a limit that is not there: none."""
    fields = {}
    for name, quota in (("requests", requests), ("tokens", units)):
        if quota is not None:
            fields[f"limit-{name}"] = str(quota.limit)
            fields[f"remaining-{name}"] = str(quota.remaining)
            fields[f"reset-{name}"] = format_reset(quota.reset_seconds)
    return fields


def over_limit(refused: Refused, at_ms: int) -> Problem:
    """The 429: which limit, whose, and when a retry fits.

    `at_ms`: Unix milliseconds of the request. The error object says it again for
    programs, as `limit`. What all tenants share is named without its numbers: how busy
    the others are is not a client's business.
    """
    limit, wait = refused.limit, refused.retry_after_seconds
    headers = {
        f"x-ratelimit-{name}": value
        for name, value in quota_fields(refused.requests, refused.units).items()
    }
    details: dict[str, str | int | float] = {
        "scope": limit.scope.name.lower(),
        "measure": limit.measure.name.lower(),
    }
    if not limit.scope.is_fleet:
        details |= {
            "value": _amount(limit, limit.value),
            "remaining": _amount(limit, refused.remaining),
        }
    if wait is None:
        # No Retry-After: openai-python obeys this header and does not try again.
        headers["x-should-retry"] = "false"
        kind, message = _never(limit, refused.remaining, at_ms)
        return Problem(
            kind, message, headers=headers, details={"limit": details}, limit=limit.word
        )
    headers["retry-after"] = str(max(1, math.ceil(wait)))
    headers["retry-after-ms"] = str(max(1, math.ceil(wait * 1000)))
    message = f"Over {_named(limit)}; try again in {format_reset(wait)}."
    return Problem(
        Kind.RATE_LIMITED,
        message,
        headers=headers,
        details={"limit": details},
        limit=limit.word,
    )


def _never(limit: Limit, remaining: int, at_ms: int) -> tuple[Kind, str]:
    named, is_fleet = _named(limit), limit.scope.is_fleet
    remedy = "send less text or ask for fewer tokens (`max_tokens`)."
    if not limit.measure.is_budget:
        at_once = "" if is_fleet else f" ({Bucket.of(limit).capacity // GRAINS})"
        message = f"This request is larger than {named} admits at once{at_once}"
        return Kind.NEVER_FITS, f"{message}; {remedy}"
    if remaining >= limit.value and not is_fleet:
        # Nothing is spent: a new period will not help.
        return Kind.NEVER_FITS, f"This request is larger than {named}; {remedy}"
    if is_fleet:
        state = "has too little left for this request"
    elif remaining > 0:
        state = f"has {_written(limit, remaining)} left, too little for this request"
    else:
        state = "is used up"
    ends_ms = period(limit.measure, limit.zone, at_ms).ends_ms
    ends = datetime.fromtimestamp(ends_ms / 1000, UTC).astimezone(ZoneInfo(limit.zone))
    message = f"{named} {state}; it starts anew at {ends.isoformat()}."
    return Kind.INSUFFICIENT_QUOTA, message[0].upper() + message[1:]


def _named(limit: Limit) -> str:
    if limit.measure is Measure.CAPACITY:
        return "the capacity of this model, in use by requests of all organisations"
    what, whose = _WHAT[limit.measure], _WHOSE[limit.scope]
    if limit.scope.is_fleet:
        return f"the limit on {what} of {whose}"
    link = " on" if limit.measure.is_money else ""
    return f"the limit of {_written(limit, limit.value)}{link} {what} of {whose}"


def _written(limit: Limit, value: int) -> str:
    """Write an amount; of money every digit there is, two places at least."""
    if not limit.measure.is_money:
        return str(value)
    whole, _, places = f"{Decimal(value) / MONEY:f}".partition(".")
    return f"{whole}.{places:0<2}"


def _amount(limit: Limit, value: int) -> int | float:
    return value / MONEY if limit.measure.is_money else value


def format_reset(seconds: float) -> str:
    """Write a duration as OpenAI's x-ratelimit-reset headers do: `120ms`, `6m0s`."""
    whole, ms = divmod(math.ceil(round(seconds * 1000, 3)), 1000)
    if not whole:
        return f"{ms}ms"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest}.{ms:03d}".rstrip("0").rstrip(".") if ms else str(rest)
    if hours:
        return f"{hours}h{minutes}m{tail}s"
    return f"{minutes}m{tail}s" if minutes else f"{tail}s"
