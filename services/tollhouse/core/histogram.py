"""Log histograms with decay: what recent values were like, in a hundred numbers.

Bins are numbered from 0 and known by their upper edge, a whole number; edges are 15 %
apart, so a quantile is at most that much too high and never too low. `learn.lua` keeps
the same bins in Redis, where those of all replicas come together; this is its
reference. Only here do bins have edges: the script adds, halves and sums up.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MOST_SAMPLES = 2000
"""When there are more, all weigh half: the last few thousand decide. P90 of 2,000 is
known to ± 1.3 % of the ranks."""
WEIGHT = 16
"""Of a new sample: a bin of a single one fades away over five halvings, in whole
numbers, which Lua and Python halve alike."""
HIGH = 90
MEDIAN = 50
_LARGEST = 10**9


def _edges() -> tuple[int, ...]:
    edges = [0]
    while edges[-1] < _LARGEST:
        edges.append(max(edges[-1] + 1, edges[-1] * 115 // 100))
    return tuple(edges)


EDGES = _edges()
"""0 to 14 one by one, then 15 % apart: 146 of them."""


def bin_of(value: int) -> int:
    """Bin of a value: the first whose edge is not below it, or the last one."""
    return min(bisect_left(EDGES, value), len(EDGES) - 1)


class Quantiles(NamedTuple):
    """What readers need of a histogram; the other two mean nothing without samples."""

    samples: int = 0
    median: int = 0
    high: int = 0
    """P90."""


@dataclass(slots=True)
class Histogram:
    """Weights by bin, up to the highest that has one."""

    weights: list[int] = field(default_factory=list)

    def add(self, whole: Mapping[int, int], cut: Mapping[int, int]) -> None:
        """Add numbers of samples by bin.

        `cut` are of values that are at least so large. They say nothing where that is
        no news: those below the P90 of what is known by then are left out.
        """
        self._add(whole)
        if (known := self._quantile(HIGH)) is not None:
            self._add({bin_: count for bin_, count in cut.items() if bin_ >= known})
        while sum(self.weights) > MOST_SAMPLES * WEIGHT:
            self.weights = [weight // 2 for weight in self.weights]

    def quantiles(self) -> Quantiles:
        """Sum up; the median and P90 as upper edges."""
        median, high = self._quantile(MEDIAN), self._quantile(HIGH)
        if median is None or high is None:
            return Quantiles()
        return Quantiles(sum(self.weights) // WEIGHT, EDGES[median], EDGES[high])

    def _quantile(self, percent: int) -> int | None:
        """Bin that so many percent of the samples reach; None: there are none."""
        total, reached = sum(self.weights), 0
        for bin_, weight in enumerate(self.weights):
            reached += weight
            if reached * 100 >= total * percent:
                return bin_
        return None

    def _add(self, samples: Mapping[int, int]) -> None:
        for bin_, count in samples.items():
            self.weights += [0] * (bin_ + 1 - len(self.weights))
            self.weights[bin_] += count * WEIGHT
