"""Counters that cost an addition."""

from collections import defaultdict
from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation


class Tally:
    """A counter by attributes; the SDK asks for its sums when it exports.

    Telling the SDK of each event takes ten times as long, and an ended exchange has
    eight of them.
    """

    def __init__(
        self, meter: Meter, name: str, attributes: str, *, unit: str, description: str
    ) -> None:
        """`attributes` are their names, with spaces between."""
        self._attributes = attributes.split()
        self._sums = defaultdict[tuple[str, ...], int](int)
        meter.create_observable_counter(
            name, [self._observe], unit=unit, description=description
        )

    def add(self, number: int, *values: str) -> None:
        """Count; the values are of the attributes, in their order."""
        self._sums[values] += number

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        # Of another thread: a copy is made in one step.
        return [
            Observation(sum_, dict(zip(self._attributes, values, strict=True)))
            for values, sum_ in self._sums.copy().items()
        ]
