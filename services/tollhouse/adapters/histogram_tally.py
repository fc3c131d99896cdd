"""Histograms that cost a bisection."""

import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from opentelemetry.metrics import CallbackOptions, Meter, Observation


class Spread(int):
    """How many values there were, and what a histogram's point says of them.

    The SDK takes it for the number it also is, and hands it on to who exports
    (`meter_provider.with_histograms`). Times are Unix nanoseconds.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    """Of the values up to each bound and above the one before; of those above all."""
    sum: float
    least: float
    most: float
    since_ns: int


class HistogramTally:
    """A histogram by attributes; the SDK asks for it when it exports.

    Telling the SDK of each value takes twenty times as long, and an exchange has ten.
    """

    def __init__(
        self,
        meter: Meter,
        name: str,
        attributes: str,
        bounds: Sequence[float],
        *,
        unit: str,
        description: str,
    ) -> None:
        """`attributes` are their names, with spaces between."""
        self._attributes = attributes.split()
        self._bounds = bounds
        self._since_ns = time.time_ns()
        self._series: dict[tuple[str | None, ...], _Series] = {}
        # No histogram can be observed; a gauge is handed on as it is.
        meter.create_observable_gauge(
            name, [self._observe], unit=unit, description=description
        )

    def record(self, value: float, *values: str | None) -> None:
        """Take one in; the further values are of the attributes, in their order.

        One that is None is left out.
        """
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = _Series(len(self._bounds) + 1)
        series.counts[bisect_left(self._bounds, value)] += 1
        series.sum += value
        series.least = min(series.least, value)
        series.most = max(series.most, value)

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        # Of another thread: copies are made in one step.
        return [
            Observation(
                self._spread(series),
                {
                    name: value
                    for name, value in zip(self._attributes, values, strict=True)
                    if value is not None
                },
            )
            for values, series in self._series.copy().items()
        ]

    def _spread(self, series: "_Series") -> Spread:
        counts = series.counts.copy()
        spread = Spread(sum(counts))
        spread.bounds, spread.counts = self._bounds, counts
        spread.sum, spread.least, spread.most = series.sum, series.least, series.most
        spread.since_ns = self._since_ns
        return spread


class _Series:
    __slots__ = ("counts", "least", "most", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum: float = 0
        self.least = math.inf
        self.most = -math.inf
