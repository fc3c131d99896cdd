"""What a client is told about its limits: OpenAI's headers, and the 429.

`x-ratelimit-*-tokens` carry units: with weights of 1 these are tokens.
"""

import math

from tollhouse.core.reservation import Quota, Refused
from tollhouse.core.problems import Kind, Problem

_WHOSE = {"key": "this API key", "tenant_model": "your organisation and this model"}
_WHAT = {
    "requests": "requests per minute",
    "units": "units per minute",
    "concurrent": "concurrent requests",
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


def over_limit(refused: Refused) -> Problem:
    """The 429: which limit, whose, and when a retry fits."""
    headers = {
        f"x-ratelimit-{name}": value
        for name, value in quota_fields(refused.requests, refused.units).items()
    }
    limit = f"{refused.limit_value} {_WHAT[refused.limit]} of {_WHOSE[refused.scope]}"
    wait = refused.retry_after_seconds
    if wait is None:
        # No Retry-After: openai-python obeys this header and does not try again.
        headers["x-should-retry"] = "false"
        message = f"This request is larger than the limit of {limit} admits at once."
        return Problem(Kind.NEVER_FITS, message, headers=headers)
    headers["retry-after"] = str(max(1, math.ceil(wait)))
    headers["retry-after-ms"] = str(max(1, math.ceil(wait * 1000)))
    message = f"Over the limit of {limit}; try again in {format_reset(wait)}."
    return Problem(Kind.RATE_LIMITED, message, headers=headers)


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
