"""Whether there is room: the limits of an exchange judged against their levels.

The reference of reserve.lua, and what judges while Redis is away. A *level* is what is
taken of a limit: grains used of a bucket, drained up to now; exchanges that run; units
or money spent of a budget; units in flight of a capacity. All limits are judged before
any is charged, and one in shadow keeps nobody out: it is left uncharged instead, so
that its level is what enforcing it would give.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tollhouse.core import buckets
from tollhouse.core.buckets import GRAINS, Bucket
from tollhouse.core.limits import Debit, Limit, Measure
from tollhouse.core.periods import period
from tollhouse.core.reservation import Granted, Quota, Refused, Reservation

BUSY_WAIT_MS = 1000
"""What a client waits for a place that another one holds, when nothing is known of how
long that takes."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one exchange takes of its limits, beside one request and one place."""

    units: int
    money: int

    @classmethod
    def of(cls, reservation: Reservation) -> "Costs":
        """What it reserves, its margin included."""
        facts = reservation.facts
        input_price, _, output_price = facts.prices
        input_tokens = facts.input_estimate + reservation.margin
        money = input_tokens * input_price + facts.output_estimate * output_price
        return cls(facts.reserved_units, money)

    def __add__(self, other: "Costs") -> "Costs":
        """Sum of each."""
        return Costs(self.units + other.units, self.money + other.money)

    def __sub__(self, other: "Costs") -> "Costs":
        """Difference of each."""
        return Costs(self.units - other.units, self.money - other.money)

    def at_least(self, other: "Costs") -> "Costs":
        """Maximum of each."""
        return Costs(max(self.units, other.units), max(self.money, other.money))

    def of_measure(self, measure: Measure) -> int:
        """What a limit's level grows by."""
        match measure:
            case Measure.REQUESTS:
                return GRAINS
            case Measure.UNITS:
                return self.units * GRAINS
            case Measure.CONCURRENT:
                return 1
            case _:
                return self.money if measure.is_money else self.units


def wait_ms(limit: Limit, cost: int, level: int) -> float:
    """Milliseconds until `cost` should fit a limit; 0: it does, infinity: never.

    A limit of 0 admits nothing, not even what costs nothing. A capacity is judged as if
    all were one tenant; who gets what of it is up to `core.fairness`.
    """
    if not limit.value:
        return math.inf
    if limit.measure.is_bucket:
        return buckets.wait_ms(level, cost, Bucket.of(limit))
    if limit.measure.is_budget:
        return math.inf if level + cost > limit.value else 0
    # Units in flight may be more than the capacity for one request alone.
    return BUSY_WAIT_MS if level and level + cost > limit.value else 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """Which limits have no room, by their index: `binding` keeps the exchange out.

    It is the limit with the longest wait, the first of equals, so that a retry after
    it finds room in the others, too. None: there is room. `shadowed` would have kept it
    out if they were not in shadow.
    """

    binding: int | None
    wait_ms: float
    shadowed: tuple[int, ...]


def judge(limits: Sequence[Limit], waits: Sequence[float]) -> Judgement:
    """Judge the limits by the wait of each."""
    binding, longest, shadowed = None, 0.0, []
    for index, (limit, wait) in enumerate(zip(limits, waits, strict=True)):
        if limit.shadow and wait:
            shadowed.append(index)
        elif wait > longest:
            binding, longest = index, wait
    return Judgement(binding, longest, tuple(shadowed))


def debit(limit: Limit, at_ms: int) -> Debit:
    """How the facts name a limit that is charged at a moment."""
    measure = limit.measure
    if measure.is_bucket:
        parameter = limit.value
    elif measure.is_budget:
        parameter = period(measure, limit.zone, at_ms).number
    else:
        parameter = limit.weight if measure is Measure.CAPACITY else 0
    return Debit(limit.scope, measure, parameter)


def granted(
    limits: Sequence[Limit],
    levels: Sequence[int],
    debits: tuple[Debit, ...],
    shadowed: Collection[int],
) -> Granted:
    """What is answered to an exchange that was admitted; `levels` are after it."""
    return Granted(
        debits,
        tuple(levels),
        *_quotas(limits, levels),
        tuple(limits[index] for index in sorted(shadowed)),
    )


def refused(
    limits: Sequence[Limit], levels: Sequence[int | None], index: int, wait: float
) -> Refused:
    """What is answered to an exchange that a limit keeps out for `wait` ms.

    A level of None was not looked at.
    """
    limit, level = limits[index], levels[index] or 0
    if limit.measure.is_bucket:
        remaining = buckets.quota(Bucket.of(limit), level).remaining
    else:
        remaining = max(0, limit.value - level)
    return Refused(
        limit,
        None if wait == math.inf else wait / 1000,
        remaining,
        tuple(level or 0 for level in levels),
        *_quotas(limits, levels),
    )


def _quotas(
    limits: Sequence[Limit], levels: Sequence[int | None]
) -> tuple[Quota | None, Quota | None]:
    """The requests and the units bucket with the least left.

    But those in shadow, and those all tenants share: a client would read from every
    answer what the others do.
    """
    requests, units = _told(tuple(limits))
    return _tightest(requests, levels), _tightest(units, levels)


_Told = tuple[tuple[int, Bucket], ...]
"""Buckets of one measure with their places among the limits."""


@lru_cache(maxsize=8192)
def _told(limits: tuple[Limit, ...]) -> tuple[_Told, _Told]:
    def of(measure: Measure) -> _Told:
        return tuple(
            (index, Bucket.of(limit))
            for index, limit in enumerate(limits)
            if limit.measure is measure and not (limit.shadow or limit.scope.is_fleet)
        )

    return of(Measure.REQUESTS), of(Measure.UNITS)


def _tightest(told: _Told, levels: Sequence[int | None]) -> Quota | None:
    least: tuple[int, Bucket, int] | None = None
    for index, bucket in told:
        level = levels[index]
        if level is not None:
            left = bucket.capacity - level
            if least is None or left < least[0]:
                least = left, bucket, level
    return None if least is None else buckets.quota(least[1], least[2])
