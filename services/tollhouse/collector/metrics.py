"""Metrics as they came last, by who sent them, in bounded memory."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

MOST_SAMPLES = 50_000
"""Lines of the page: several times what a stack of eight workers has."""
EXPIRY_SECONDS = 300.0
"""Who was not heard for so long is gone (the OpenTelemetry Collector's default)."""


class Kind(Enum):
    """What Prometheus calls it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram counted; `counts` has one more than `bounds`."""

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float


@dataclass(frozen=True, slots=True)
class Point:
    """One series, and what it stands at."""

    attributes: Mapping[str, str]
    value: float | Distribution

    @property
    def samples(self) -> int:
        """Lines on the page."""
        value = self.value
        return len(value.counts) + 2 if isinstance(value, Distribution) else 1


@dataclass(frozen=True, slots=True)
class Metric:
    """One instrument of one process; name and unit as OpenTelemetry has them."""

    name: str
    unit: str
    description: str
    kind: Kind
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent something: a process of a service."""

    job: str
    instance: str


class Metrics:
    """The last of each metric; who was not heard for the longest goes first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: OrderedDict[Origin, dict[str, Metric]] = OrderedDict()
        self._heard_at: dict[Origin, float] = {}

    def take(self, origin: Origin, metrics: Sequence[Metric]) -> None:
        """Replace what is known of this process: an export has all that it measures.

        So nothing stays of one that died, where another took its name.
        """
        self._held[origin] = {metric.name: metric for metric in metrics}
        self._held.move_to_end(origin)
        self._heard_at[origin] = self._clock()
        while self._held and self._samples() > MOST_SAMPLES:
            self._forget(next(iter(self._held)))

    def __iter__(self) -> Iterator[tuple[Origin, Metric]]:
        """Yield what is known of the processes that are still heard."""
        gone = self._clock() - EXPIRY_SECONDS
        for origin in [it for it, at in self._heard_at.items() if at < gone]:
            self._forget(origin)
        for origin, held in self._held.items():
            for metric in held.values():
                yield origin, metric

    def _samples(self) -> int:
        return sum(
            point.samples
            for held in self._held.values()
            for metric in held.values()
            for point in metric.points
        )

    def _forget(self, origin: Origin) -> None:
        del self._held[origin], self._heard_at[origin]
