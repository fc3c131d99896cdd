"""One worker's own copy of a limit, while the shared one is away; see `local`."""

import heapq
import math
from typing import NamedTuple, Protocol

from tollhouse.core import room
from tollhouse.core.buckets import Bucket
from tollhouse.core.limits import Limit
from tollhouse.core.periods import period

UNSEEN_BUDGET = 10
"""Of a budget never seen this part is left, as far as we know: a tenth."""


class Seen(NamedTuple):
    """Level of a shared limit, when (ms), and when the exchange was made (Unix ms)."""

    level: int
    at_ms: int
    created_ms: int


class Copy(Protocol):
    """A limit as one worker knows it; `level` is what is used of it."""

    level: int

    def wait_ms(
        self, limit: Limit, cost: int, others: int, now_ms: int, at_ms: int, /
    ) -> float:
        """As `room.wait_ms`, with `others` free beside the cost.

        `now_ms` is of the caller's clock, `at_ms` the Unix time of the exchange's id.
        """

    def charge(self, cost: int, workers: int, ends_ms: int, /) -> None:
        """Take the cost, as often as there are workers; a place until `ends_ms`."""


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


def as_seen(limit: Limit, seen: Seen, lasts_ms: int) -> Copy:
    """Start where the shared limit was; its exchanges last `lasts_ms`."""
    measure = limit.measure
    if measure.is_bucket:
        return _BucketCopy(seen.level, seen.at_ms)
    if measure.is_budget:
        number = period(measure, limit.zone, seen.created_ms).number
        return _BudgetCopy(seen.level, seen.level, number)
    return _CountCopy(seen.level, seen.at_ms + lasts_ms)


def unseen(limit: Limit, now_ms: int, at_ms: int) -> Copy:
    """Start where nothing is known; times as `Copy.wait_ms` has them."""
    measure = limit.measure
    if measure.is_bucket:
        return _BucketCopy(0, now_ms)
    if measure.is_budget:
        number = period(measure, limit.zone, at_ms).number
        assumed = limit.value - limit.value // UNSEEN_BUDGET
        return _BudgetCopy(assumed, 0, number)
    return _CountCopy(0, now_ms)
