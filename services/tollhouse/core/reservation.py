"""A reservation, and what a limiter answers to it."""

from dataclasses import dataclass

from tollhouse.core.limits import Debit, Limit
from tollhouse.core.usage import Facts


@dataclass(frozen=True, slots=True)
class Typical:
    """What recent exchanges of this kind were like, for what a refused client is told.

    `duration_ms`: median from admission to settlement, 0 for not known.
    `refund`: units a settlement gives back, of those reserved, on average; >= 0.
    """

    duration_ms: int = 0
    refund: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """One exchange asking for room in every limit.

    `facts.debits` is empty: the limiter answers with what it took. `limits`: those of
    the fleet and of the tenant in any order, at most one of a scope and measure.
    `is_held`: it was refused a moment ago and asks again by itself; to such no room is
    promised that others then wait behind.
    """

    exchange_id: str
    facts: Facts
    limits: tuple[Limit, ...]
    typical: Typical = Typical()
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Quota:
    """State of one bucket, as the x-ratelimit headers tell it.

    `limit` is per minute; `remaining` is what would be admitted at once, so never more
    than the burst; `reset_seconds` is when the bucket is empty again.
    """

    limit: int
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True)
class Granted:
    """There was room.

    `debits`: what was charged, for the facts. `levels`: state of each limit of the
    reservation, in its order, after it: grains used of a bucket, spent of a budget,
    running of a count. `requests`, `units`: the tightest buckets, None: no such limit.
    `shadowed`: limits in shadow that would have refused; they were not charged.
    """

    debits: tuple[Debit, ...]
    levels: tuple[int, ...]
    requests: Quota | None
    units: Quota | None
    shadowed: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """There was no room in `limit`, the one with the longest wait; nothing was taken.

    `retry_after_seconds`: when it should fit; None: never, it is larger than the limit
    admits at once, or the budget's period is used up. `remaining` in the limit's own
    measure. `levels` and quotas as in `Granted`; a level not looked at is 0.
    """

    limit: Limit
    retry_after_seconds: float | None
    remaining: int
    levels: tuple[int, ...]
    requests: Quota | None
    units: Quota | None
