"""Limits and the arithmetic of their buckets; the reference for the Lua scripts.

A bucket stores what is *used*: charges add to it, time drains it down to zero, and a
charge is admitted while it fits under the capacity. A bucket nobody has is empty, so
a lost one starts with the whole burst, and settling needs no capacity. What is settled
may lift it over the capacity (debt); it then drains before anything is admitted.

Used is counted in *grains*, 60,000 to a unit or request: a limit of N per minute then
drains exactly N grains per millisecond, and neither Python nor Lua ever rounds.
"""

import math
from dataclasses import dataclass
from typing import Literal

from tollhouse.core.usage import Facts

GRAINS = 60_000
"""Grains per unit: milliseconds in a minute."""

LimitName = Literal["requests", "units", "concurrent"]
Scope = Literal["key", "tenant_model"]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one scope may use; None: no such limit, 0: nothing.

    `burst_seconds` is how much of a minute's allowance may be used at once: in any
    60 s at most limit * (1 + burst_seconds / 60) is admitted.
    """

    requests_per_minute: int | None = None
    units_per_minute: int | None = None
    concurrent: int | None = None
    burst_seconds: float = 10.0

    @property
    def requests_capacity(self) -> int:
        """Capacity of the requests bucket in grains: the burst, at least one."""
        rate = self.requests_per_minute or 0
        return max(self._burst(rate), GRAINS) if rate else 0

    @property
    def units_capacity(self) -> int:
        """Capacity of the units bucket in grains."""
        return self._burst(self.units_per_minute or 0)

    def _burst(self, rate: int) -> int:
        return round(rate * self.burst_seconds * 1000)


UNLIMITED = Allowance()


def debits(key: Allowance, tenant_model: Allowance) -> tuple[int, int, int, int]:
    """Refill per minute of the four buckets, in the order the scripts use them."""
    return (
        key.requests_per_minute or 0,
        key.units_per_minute or 0,
        tenant_model.requests_per_minute or 0,
        tenant_model.units_per_minute or 0,
    )


@dataclass(frozen=True, slots=True)
class Reservation:
    """One exchange asking for room: its estimate and the limits it must fit into."""

    exchange_id: str
    facts: Facts
    key: Allowance
    tenant_model: Allowance


@dataclass(frozen=True, slots=True)
class Quota:
    """State of one limit, as the x-ratelimit headers tell it.

    `limit` is per minute; `remaining` is what would be admitted at once, so never more
    than the burst; `reset_seconds` is when the bucket is empty again.
    """

    limit: int
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True)
class Granted:
    """There was room; the quotas are those of the tightest scope, None: no limit."""

    requests: Quota | None
    units: Quota | None


@dataclass(frozen=True, slots=True)
class Refused:
    """There was no room in `limit` of `scope`, the one with the longest wait.

    `retry_after_seconds`: when this reservation would fit if nothing else came; None:
    never, it is larger than the limit allows at once. For `concurrent` it is a guess.
    """

    limit: LimitName
    scope: Scope
    retry_after_seconds: float | None
    limit_value: int
    remaining: int
    requests: Quota | None
    units: Quota | None


def drain(used: int, rate: int, elapsed_ms: int) -> int:
    """What is still used after some time; a clock that went back drains nothing."""
    return max(0, used - rate * max(0, elapsed_ms))


def settle(used: int, correction: int) -> int:
    """Charge (positive) or refund (negative) grains into a drained bucket."""
    return max(0, used + correction)


def wait_ms(used: int, cost: int, rate: int, capacity: int) -> int | None:
    """Milliseconds until `cost` fits into a drained bucket; None: never."""
    if cost > capacity:
        return None
    missing = used + cost - capacity
    return -(-missing // rate) if missing > 0 else 0


def quota(rate: int, capacity: int, used: int) -> Quota:
    """How a drained bucket looks from outside."""
    remaining = max(0, capacity - used) // GRAINS
    return Quota(rate, remaining, used / rate / 1000 if rate else 0.0)


def tightest(one: Quota | None, other: Quota | None) -> Quota | None:
    """The quota that refuses first; None is no limit."""
    if one is None or other is None:
        return one or other
    return one if one.remaining <= other.remaining else other


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
