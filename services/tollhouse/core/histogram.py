"""Log histograms with decay: what recent values were like, in a hundred numbers.

A bin is known by its upper edge, a whole number; edges are 15 % apart, so a quantile is
at most that much too high and never too low. `learn.lua` keeps the same bins in Redis,
where those of all replicas come together; this is its reference. Edges are found here
only: the script adds, halves and sums up.
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


def upper_edge(value: int) -> int:
    """Bin of a value: the smallest edge that is not below it, or the last one."""
    return EDGES[min(bisect_left(EDGES, value), len(EDGES) - 1)]


class Quantiles(NamedTuple):
    """What readers need of a histogram; the other two mean nothing without samples."""

    samples: int = 0
    median: int = 0
    high: int = 0
    """P90."""


@dataclass(slots=True)
class Histogram:
    """Weights by upper edge."""

    bins: dict[int, int] = field(default_factory=dict)

    def add(self, whole: Mapping[int, int], cut: Mapping[int, int]) -> None:
        """Add samples by upper edge.

        `cut` are of values that are at least so large. They say nothing where that is
        no news: those below the P90 of what is known by then are left out.
        """
        self._add(whole)
        if (known := self.quantile(HIGH)) is not None:
            self._add({edge: count for edge, count in cut.items() if edge >= known})
        while sum(self.bins.values()) > MOST_SAMPLES * WEIGHT:
            halves = {edge: weight // 2 for edge, weight in self.bins.items()}
            self.bins = {edge: weight for edge, weight in halves.items() if weight}

    def quantile(self, percent: int) -> int | None:
        """Upper edge of the bin that so many percent of the samples reach."""
        total, reached = sum(self.bins.values()), 0
        for edge in sorted(self.bins):
            reached += self.bins[edge]
            if reached * 100 >= total * percent:
                return edge
        return None

    def quantiles(self) -> Quantiles:
        """Sum up."""
        samples = sum(self.bins.values()) // WEIGHT
        return Quantiles(samples, self.quantile(MEDIAN) or 0, self.quantile(HIGH) or 0)

    def _add(self, samples: Mapping[int, int]) -> None:
        for edge, count in samples.items():
            self.bins[edge] = self.bins.get(edge, 0) + count * WEIGHT
