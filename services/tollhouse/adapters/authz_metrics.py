"""What is measured of checks; docs/telemetry.md says what for.

A check has no microseconds to spare for telemetry: it adds one to a number, and the
numbers are looked at when they are exported.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

_Verdict = TypeVar("_Verdict", bound=StrEnum)
_Lookup = TypeVar("_Lookup", bound=StrEnum)


def watch_checks(
    provider: MeterProvider | None,
    *,
    verdicts: Mapping[_Verdict, int],
    lookups: Mapping[_Lookup, int],
) -> None:
    """Export these counts, which only grow, and have all their names from the start."""
    if provider is None:
        return
    meter = provider.get_meter("tollhouse")
    meter.create_observable_counter(
        "tollhouse.checks",
        [_observed(verdicts, "verdict")],
        unit="{check}",
        description="Checks answered, by verdict",
    )
    meter.create_observable_counter(
        "tollhouse.credentials",
        [_observed(lookups, "outcome")],
        unit="{lookup}",
        description="Credentials looked for, by what the cache knew",
    )


def _observed(
    counts: Mapping[_Verdict, int], name: str
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(count, {name: it.value}) for it, count in counts.items()]

    return observe
