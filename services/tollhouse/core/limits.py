"""Limits and the arithmetic of their buckets; the reference for the Lua scripts.

A bucket stores what is *used*: charges add to it, time drains it down to zero, and a
charge is admitted while it fits under the capacity. A bucket nobody has is empty, so
a lost one starts with the whole burst, and settling needs no capacity. What is settled
may lift it over the capacity (debt); it then drains before anything is admitted.

Used is counted in *grains*, 60,000 to a unit or request: a limit of N per minute then
drains exactly N grains per millisecond, and neither Python nor Lua ever rounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tollhouse.core.usage import Facts

GRAINS = 60_000
"""Grains per unit: milliseconds in a minute."""

LimitName = Literal["requests", "units", "concurrent"]
Scope = Literal["key", "tenant_model"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """One token bucket: refill per minute, capacity in grains."""

    rate: int
    capacity: int


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

    def requests(self) -> Bucket | None:
        """Requests bucket: holds the burst, at least one request."""
        rate = self.requests_per_minute
        if not rate:
            return None if rate is None else Bucket(0, 0)
        return Bucket(rate, max(GRAINS, round(rate * self.burst_seconds * 1000)))

    def units(self) -> Bucket | None:
        """Units bucket: holds the burst."""
        rate = self.units_per_minute
        if rate is None:
            return None
        return Bucket(rate, round(rate * self.burst_seconds * 1000))


SCOPES: tuple[Scope, ...] = ("key", "tenant_model")
"""The scopes of a tenant's shard, in the order the scripts use them."""
CONCURRENT_WAIT_MS = 1000
"""What a refusal for too many exchanges at once guesses: one may end any time."""


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


class Limits:
    """All limits of an exchange, in the order the scripts use them.

    A `state` is a moment of them: grains used of each scope's requests bucket and units
    bucket, then the exchanges that run in each scope; 0 where there is no such limit.
    """

    def __init__(self, key: Allowance, tenant_model: Allowance) -> None:
        allowances = (key, tenant_model)
        self.buckets = [
            bucket for it in allowances for bucket in (it.requests(), it.units())
        ]
        self.concurrent = [it.concurrent for it in allowances]

    def binding(self, units: int, state: Sequence[int]) -> tuple[int, float] | None:
        """The limit that keeps one more exchange out longest, and for how many ms.

        As its index in the state; the first of equals; infinity is never. None: there
        is room in all.
        """
        waits: list[float] = []
        for index, bucket in enumerate(self.buckets):
            cost = (units if index % 2 else 1) * GRAINS
            waits.append(wait_ms(state[index], cost, bucket) if bucket else 0)
        for most, running in zip(
            self.concurrent, state[len(self.buckets) :], strict=True
        ):
            full = most is not None and running >= most
            waits.append((CONCURRENT_WAIT_MS if most else math.inf) if full else 0)
        longest = max(waits)
        return (waits.index(longest), longest) if longest else None

    def granted(self, state: Sequence[int]) -> Granted:
        """What a client that was admitted is told."""
        return Granted(*self._tightest(state))

    def refused(self, state: Sequence[int], index: int, wait: float) -> Refused:
        """What a client is told whom the limit at `index` keeps out for `wait` ms."""
        after = None if wait == math.inf else wait / 1000
        told = self._tightest(state)
        over = index - len(self.buckets)
        if over >= 0:
            most = self.concurrent[over] or 0
            room = max(0, most - state[index])
            return Refused("concurrent", SCOPES[over], after, most, room, *told)
        name: LimitName = "units" if index % 2 else "requests"
        bound = quota(self.buckets[index] or Bucket(0, 0), state[index])
        scope = SCOPES[index // 2]
        return Refused(name, scope, after, bound.limit, bound.remaining, *told)

    def _tightest(self, state: Sequence[int]) -> tuple[Quota | None, Quota | None]:
        """Quotas of the requests and the units bucket with the least left."""
        return self._least(state, 0), self._least(state, 1)

    def _least(self, state: Sequence[int], first: int) -> Quota | None:
        found: Bucket | None = None
        used = least = 0
        for index in range(first, len(self.buckets), 2):
            bucket = self.buckets[index]
            if bucket is None:
                continue
            left = (bucket.capacity - state[index]) // GRAINS
            if found is None or left < least:
                found, used, least = bucket, state[index], left
        return None if found is None else quota(found, used)


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
