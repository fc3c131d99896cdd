"""A reservation, and what a limiter answers to it."""

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from tollhouse.core.limits import Debit, Limit, Measure
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
    `margin`: input tokens to reserve beside the estimated ones; the facts' units have
    them already, money not.
    `is_held`: it was refused a moment ago and asks again by itself; to such no room is
    promised that others then wait behind.

    A stream asks once more for each further request. `ordinal` counts them, from 1;
    `facts` are of the one that asks, `so_far` of those before it, with their debits.
    Its `limits` are then `further_limits`.
    """

    exchange_id: str
    facts: Facts
    limits: tuple[Limit, ...]
    typical: Typical = Typical()
    margin: int = 0
    is_held: bool = False
    ordinal: int = 1
    so_far: Facts | None = None

    @property
    def whole(self) -> Facts:
        """Facts of all requests of the exchange up to this one."""
        return self.facts if self.so_far is None else joined(self.so_far, self.facts)


def further_limits(limits: Iterable[Limit], so_far: Facts) -> tuple[Limit, ...]:
    """Those that a further request of an exchange is judged by.

    The ones it is charged to already, whatever was configured meanwhile: it ends with
    one settlement. It has its place among the running ones.
    """
    charged = {(it.scope, it.measure) for it in so_far.debits}
    return tuple(
        it
        for it in limits
        if (it.scope, it.measure) in charged and it.measure is not Measure.CONCURRENT
    )


def joined(so_far: Facts, further: Facts) -> Facts:
    """Facts of an exchange that got a further request; both of one model and key."""
    caps = so_far.output_cap, further.output_cap
    known = [cap for cap in caps if cap is not None]
    return replace(
        so_far,
        reserved_units=so_far.reserved_units + further.reserved_units,
        input_estimate=so_far.input_estimate + further.input_estimate,
        output_estimate=so_far.output_estimate + further.output_estimate,
        text_bytes=so_far.text_bytes + further.text_bytes,
        framing=so_far.framing + further.framing,
        choices=so_far.choices + further.choices,
        # Of several only the largest bounds each of them.
        output_cap=max(known) if len(known) == len(caps) else None,
    )


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
