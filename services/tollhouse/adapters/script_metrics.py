"""What Redis' scripts cost, and what they fail with; see docs/telemetry.md."""

from opentelemetry.metrics import MeterProvider

from tollhouse.adapters.histogram_tally import HistogramTally
from tollhouse.adapters.redis.client import Observe, Run

_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5),
)


def script_observer(provider: MeterProvider | None) -> Observe | None:
    """Make what a `Redis` tells of its scripts; None where nothing is exported."""
    return None if provider is None else _ScriptMetrics(provider).observe


class _ScriptMetrics:
    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("tollhouse")
        self._duration = HistogramTally(
            meter,
            "tollhouse.script.duration",
            "script",
            _SECONDS,
            unit="s",
            description="Round trip of a script, as a batch of them takes it",
        )
        self._errors = meter.create_counter(
            "tollhouse.script.errors",
            unit="{error}",
            description="Scripts that failed, by Redis' error code",
        )

    def observe(self, run: Run, started_ns: int, ended_ns: int, error: str) -> None:
        """Take in one run."""
        name = run[0].name
        self._duration.record(max(0, ended_ns - started_ns) / 1e9, name)
        if error:
            self._errors.add(1, {"script": name, "code": error})
