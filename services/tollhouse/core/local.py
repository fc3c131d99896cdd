"""The limits of one worker while the shared ones can't be reached.

Each worker admits its part: it charges what it admits to its own copy of a limit as
often as there are workers, as if all the others had admitted the same meanwhile. The
copy starts at the level that was last seen of the shared limit, less what time has
drained, so that losing Redis gives nobody a fresh burst; and the next answer of the
shared limit replaces it: what was admitted here is charged there when it settles.

Parts are whole. Of n requests (places, units) a worker of `workers` gets those whose
number leaves its turn as the remainder: together the workers admit n, however few n
are, and not one each. What is larger than a worker's part of a burst is saved up for.

What all workers admit while Redis is away, T minutes, whatever the traffic's spread:

    bucket      burst + limit * T; less by what each saw used. Where it saw nothing or
                long ago it starts with its part of the burst: no more than one burst
                is then admitted twice. In any 60 s: limit + the larger of the burst
                and 2 * workers * the largest request.
    budget      what was left when last seen; of one never seen a tenth, so that even
                a spent one is exceeded by no more than that, once per worker and start
    concurrent  the limit, if exchanges last as long as is typical: nobody tells us how
                they end
    capacity    as concurrent, and one exchange more per worker
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from tollhouse.core import room
from tollhouse.core.buckets import GRAINS, Bucket
from tollhouse.core.ids import created_ms
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.periods import period
from tollhouse.core.reservation import Granted, Refused, Reservation
from tollhouse.core.usage import Facts

MOST_REMEMBERED = 50_000
"""Limits of single owners, the longest unused forgotten first: 20 MB."""
UNSEEN_BUDGET = 10
"""Of a budget never seen this part is left, as far as we know: a tenth."""


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of every limit: `turn` is its place among `workers`, from 0."""

    turn: int
    workers: int


class _Seen(NamedTuple):
    """Level of a shared limit, when (ms), and when the exchange was made (Unix ms)."""

    level: int
    at_ms: int
    created_ms: int


class LocalLimits:
    """Remembers the shared limits' levels and judges by them when it must.

    Times are milliseconds of any clock that never goes back; budgets go by the time in
    the exchange's id. `lease_ms` is how long a place is held where nothing is known of
    how long exchanges last.
    """

    def __init__(
        self, *, lease_ms: int = 20_000, most_remembered: int = MOST_REMEMBERED
    ) -> None:
        self._lease_ms = lease_ms
        self._most_remembered = most_remembered
        self._known: OrderedDict[str, _Seen | _Copy] = OrderedDict()

    def remember(
        self, reservation: Reservation, verdict: Granted | Refused, now_ms: int
    ) -> None:
        """Take over what the shared limits said; local copies of them are dropped."""
        side = None if isinstance(verdict, Granted) else verdict.limit.scope.is_fleet
        created = created_ms(reservation.exchange_id)
        facts, known = reservation.facts, self._known
        names = _names(
            reservation.limits, facts.tenant, facts.key_id, facts.served_model
        )
        for (name, is_fleet), level in zip(names, verdict.levels, strict=True):
            # Of a refusal only the side that refused was looked at for sure.
            if side is None or side is is_fleet:
                known[name] = _Seen(level, now_ms, created)
                known.move_to_end(name)
        self._forget()

    def reserve(
        self, reservation: Reservation, share: Share, now_ms: int
    ) -> Granted | Refused:
        """Take the estimate from this worker's part of every limit, or from none."""
        limits, facts = reservation.limits, reservation.facts
        at_ms = created_ms(reservation.exchange_id)
        costs = [room.Costs.of(reservation).of_measure(it.measure) for it in limits]
        copies = [self._copy(it, reservation, now_ms, at_ms) for it in limits]
        self._forget()
        others = _of_others(limits, costs, facts, share)
        waits = [
            copy.wait_ms(limit, cost, more, now_ms, at_ms)
            for copy, limit, cost, more in zip(
                copies, limits, costs, others, strict=True
            )
        ]
        verdict = room.judge(limits, waits)
        if verdict.binding is not None:
            levels = [
                max(0, copy.level + (more if wait else 0))
                for copy, more, wait in zip(copies, others, waits, strict=True)
            ]
            return room.refused(limits, levels, verdict.binding, verdict.wait_ms)
        ends_ms = now_ms + (reservation.typical.duration_ms or self._lease_ms)
        debits = []
        for index, limit in enumerate(limits):
            if index not in verdict.shadowed:
                copies[index].charge(costs[index], share.workers, ends_ms)
                debits.append(room.debit(limit, at_ms))
        levels = [max(0, copy.level) for copy in copies]
        return room.granted(limits, levels, tuple(debits), verdict.shadowed)

    def _copy(
        self, limit: Limit, reservation: Reservation, now_ms: int, at_ms: int
    ) -> "_Copy":
        facts = reservation.facts
        name = _name(limit, facts.tenant, facts.key_id, facts.served_model)
        known = self._known.get(name)
        if known is None or isinstance(known, _Seen):
            lasts_ms = reservation.typical.duration_ms or self._lease_ms
            known = (
                _unseen(limit, now_ms, at_ms)
                if known is None
                else _as_seen(limit, known, lasts_ms)
            )
            self._known[name] = known
        self._known.move_to_end(name)
        return known

    def _forget(self) -> None:
        while len(self._known) > self._most_remembered:
            self._known.popitem(last=False)


@lru_cache(maxsize=8192)
def _names(
    limits: tuple[Limit, ...], tenant: str, key_id: str, model: str
) -> tuple[tuple[str, bool], ...]:
    """Of each limit, and whether it is the fleet's."""
    return tuple(
        (_name(limit, tenant, key_id, model), limit.scope.is_fleet) for limit in limits
    )


def _name(limit: Limit, tenant: str, key_id: str, model: str) -> str:
    match limit.scope:
        case Scope.KEY:
            return f"{limit.measure:d}k{key_id}"
        case Scope.TENANT:
            return f"{limit.measure:d}t{tenant}"
        case Scope.TENANT_MODEL:
            return f"{limit.measure:d}x{tenant}:{model}"
        case Scope.MODEL:
            return f"{limit.measure:d}m{model}"
        case _:
            return f"{limit.measure:d}g"


class _BucketCopy:
    """A bucket's grains used, drained whenever it is looked at.

    They go below zero for what is larger than a worker's part of the burst: as far as
    two of the largest such requests need, or one that comes a little late would lose
    what time had saved up meanwhile.
    """

    __slots__ = ("_at_ms", "_largest", "level")

    def __init__(self, level: int, at_ms: int) -> None:
        self.level = level
        self._at_ms = at_ms
        self._largest = 0

    def wait_ms(
        self, limit: Limit, cost: int, others: int, now_ms: int, _at_ms: int
    ) -> float:
        bucket = Bucket.of(limit)
        if cost <= bucket.capacity:
            self._largest = max(self._largest, cost + others)
        drained = self.level - bucket.rate * (now_ms - self._at_ms)
        self.level = max(drained, min(0, bucket.capacity - 2 * self._largest))
        self._at_ms = now_ms
        return room.wait_ms(limit, cost, self.level + others)

    def charge(self, cost: int, workers: int, _ends_ms: int) -> None:
        self.level += cost * workers


class _BudgetCopy:
    """A budget of one period: what was spent of it, by all workers if as we did.

    What is `sure` to be spent makes the budget used up; what only our part forbids may
    be there once the shared limit is back.
    """

    __slots__ = ("_period", "_sure", "level")

    def __init__(self, level: int, sure: int, number: int) -> None:
        self.level = level
        self._sure = sure
        self._period = number

    def wait_ms(
        self, limit: Limit, cost: int, others: int, _now_ms: int, at_ms: int
    ) -> float:
        number = period(limit.measure, limit.zone, at_ms).number
        if number > self._period:
            # It began while we were alone: all have spent of it in parts like ours.
            self.level, self._sure, self._period = 0, 0, number
        if never := room.wait_ms(limit, cost, self._sure):
            return never
        fits = not room.wait_ms(limit, cost, self.level + others)
        return 0 if fits else room.BUSY_WAIT_MS

    def charge(self, cost: int, workers: int, _ends_ms: int) -> None:
        self.level += cost * workers
        self._sure += cost


class _CountCopy:
    """Places, or units in flight; each ends by itself after the typical time."""

    __slots__ = ("_ends", "level")

    def __init__(self, level: int, ends_ms: int) -> None:
        self.level = level
        self._ends = [(ends_ms, level)] if level else []

    def wait_ms(
        self, limit: Limit, cost: int, others: int, now_ms: int, _at_ms: int
    ) -> float:
        while self._ends and self._ends[0][0] <= now_ms:
            self.level -= heapq.heappop(self._ends)[1]
        wait = room.wait_ms(limit, cost, self.level + others)
        if 0 < wait < math.inf and self._ends:
            return self._ends[0][0] - now_ms
        return wait

    def charge(self, cost: int, workers: int, ends_ms: int) -> None:
        self.level += cost * workers
        heapq.heappush(self._ends, (ends_ms, cost * workers))


_Copy = _BucketCopy | _BudgetCopy | _CountCopy


def _of_others(
    limits: Sequence[Limit], costs: Sequence[int], facts: Facts, share: Share
) -> list[int]:
    """What must be free of each limit beside the cost for that to be of our part.

    The first of what is indivisible leaves room for those whose turn is before ours,
    each further one for all the others.
    """
    # One turn for all limits of a tenant: or one worker would have the only place of
    # its key, and another the only one of the tenant.
    turn = (share.turn + crc32(facts.tenant.encode())) % share.workers
    others = []
    for limit, cost in zip(limits, costs, strict=True):
        if limit.measure is Measure.CAPACITY or not cost:
            others.append(0)
            continue
        one = GRAINS if limit.measure.is_bucket else 1
        mine = share.turn if limit.scope.is_fleet else turn
        others.append(mine * one + (share.workers - 1) * (cost - one))
    return others


def _as_seen(limit: Limit, seen: _Seen, lasts_ms: int) -> _Copy:
    """Start where the shared limit was."""
    measure = limit.measure
    if measure.is_bucket:
        return _BucketCopy(seen.level, seen.at_ms)
    if measure.is_budget:
        number = period(measure, limit.zone, seen.created_ms).number
        return _BudgetCopy(seen.level, seen.level, number)
    return _CountCopy(seen.level, seen.at_ms + lasts_ms)


def _unseen(limit: Limit, now_ms: int, at_ms: int) -> _Copy:
    """Start where nothing is known."""
    measure = limit.measure
    if measure.is_bucket:
        return _BucketCopy(0, now_ms)
    if measure.is_budget:
        number = period(measure, limit.zone, at_ms).number
        assumed = limit.value - limit.value // UNSEEN_BUDGET
        return _BudgetCopy(assumed, 0, number)
    return _CountCopy(0, now_ms)
