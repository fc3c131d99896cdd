"""What telemetry lost of itself; see docs/telemetry.md."""

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation


def watch_lost_spans(provider: MeterProvider | None, lost: Callable[[], int]) -> None:
    """Ask at each export how many spans did not reach the collector so far."""
    if provider is None:
        return

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(lost())]

    provider.get_meter("tollhouse").create_observable_counter(
        "tollhouse.spans.lost",
        [observe],
        unit="{span}",
        description="Spans that did not reach the collector",
    )
