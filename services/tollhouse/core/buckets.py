"""The arithmetic of buckets; the reference for the Lua scripts.

A bucket stores what is *used*: charges add to it, time drains it down to zero, and a
charge is admitted while it fits under the capacity. A bucket nobody has is empty, so
a lost one starts with the whole burst, and settling needs no capacity. What is settled
may lift it over the capacity (debt); it then drains before anything is admitted.

Used is counted in *grains*, 60,000 to a unit or request: a limit of N per minute then
drains exactly N grains per millisecond, and neither Python nor Lua ever rounds.
"""

import math
from dataclasses import dataclass

from tollhouse.core.limits import Limit, Measure
from tollhouse.core.reservation import Quota

GRAINS = 60_000
"""Grains per unit: milliseconds in a minute."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One token bucket: refill per minute, capacity in grains."""

    rate: int
    capacity: int

    @classmethod
    def of(cls, limit: Limit) -> "Bucket":
        """Make the bucket of a limit: it holds the burst, at least one request."""
        capacity = round(limit.value * limit.burst * 1000)
        if limit.value and limit.measure is Measure.REQUESTS:
            capacity = max(GRAINS, capacity)
        return cls(limit.value, capacity)


def drain(used: int, rate: int, elapsed_ms: int) -> int:
    """What is still used after some time; a clock that went back drains nothing."""
    return max(0, used - rate * max(0, elapsed_ms))


def correct(used: int, grains: int) -> int:
    """Charge (positive) or refund (negative) a drained bucket."""
    return max(0, used + grains)


def wait_ms(used: int, cost: int, bucket: Bucket) -> float:
    """Whole milliseconds until `cost` fits into a drained bucket; infinity: never."""
    if cost > bucket.capacity:
        return math.inf
    missing = used + cost - bucket.capacity
    return -(-missing // bucket.rate) if missing > 0 else 0


def quota(bucket: Bucket, used: int) -> Quota:
    """How a drained bucket looks from outside."""
    remaining = max(0, bucket.capacity - used) // GRAINS
    reset_seconds = used / bucket.rate / 1000 if bucket.rate else 0.0
    return Quota(bucket.rate, remaining, reset_seconds)
