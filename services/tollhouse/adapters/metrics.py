"""What extproc measures of admission, the outbox and the ledger, through OpenTelemetry.

| instrument | says |
|---|---|
| `tollhouse.estimate.ratio` | estimated ÷ real tokens; `what`: input, output |
| `tollhouse.reservation.over` | units that were reserved and not used |
| `tollhouse.reservation.overshoot` | units that were used and not reserved |
| `tollhouse.admissions` | judged requests by `rung`: shared, local, denied |
| `tollhouse.refusals` | refused requests by binding `limit` and `scope` |
| `tollhouse.refusals.shadow` | limits in shadow that would have refused |
| `tollhouse.lessons.dropped` | exchanges the estimator could not learn from |
| `tollhouse.outbox.age` | since when the aggregator lacks a record, seconds |
| `tollhouse.outbox.entries` | records that the aggregator does not have yet |
| `tollhouse.outbox.refused` | records that are set aside for an operator |
| `tollhouse.ledger.faults` | lines not settled; `fault`: misread, failed |
| `tollhouse.ledger.lag` | bytes of a node's ledger that are not settled yet |

Attributes are `model` and `plan` beside those; never a key or a tenant: their number
has no bound. Where nothing exports, a record costs a fraction of a microsecond. Of
ended exchanges `exchange_metrics` measures more; docs/telemetry.md has them all.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum

from opentelemetry.metrics import (
    CallbackOptions,
    MeterProvider,
    NoOpMeterProvider,
    Observation,
)

from tollhouse.adapters.histogram_tally import HistogramTally
from tollhouse.adapters.redis.outbox import Standing
from tollhouse.adapters.tally import Tally
from tollhouse.core.exchange import Settlement
from tollhouse.core.limits import Limit
from tollhouse.core.usage import CountSource, UsageKind

_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_UNITS = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


class Rung(StrEnum):
    """Of the ladder: who judged a request."""

    SHARED = "shared"
    """Redis."""
    LOCAL = "local"
    """The worker alone, Redis being away."""
    DENIED = "denied"
    """Nobody: the plan wants no judgement without Redis."""


class Fault(StrEnum):
    """What is wrong with a line of the ledger; nothing else is held up by it."""

    MISREAD = "misread"
    """It is no line, or lacks something."""
    FAILED = "failed"
    """Redis would not settle it."""


class Metrics:
    """These instruments; without a provider none measures."""

    def __init__(self, provider: MeterProvider | None = None) -> None:
        self._provider = provider
        meter = (provider or NoOpMeterProvider()).get_meter("tollhouse")
        self._meter = meter
        self._ratio = HistogramTally(
            meter,
            "tollhouse.estimate.ratio",
            "model what",
            _RATIOS,
            unit="1",
            description="Estimated ÷ real tokens",
        )
        self._over = HistogramTally(
            meter,
            "tollhouse.reservation.over",
            "model plan",
            _UNITS,
            unit="{unit}",
            description="Units reserved and not used",
        )
        self._overshoot = HistogramTally(
            meter,
            "tollhouse.reservation.overshoot",
            "model plan",
            _UNITS,
            unit="{unit}",
            description="Units used and not reserved",
        )
        self._admissions = Tally(
            meter,
            "tollhouse.admissions",
            "rung model plan",
            unit="{request}",
            description="Requests judged, by rung",
        )
        self._refusals = meter.create_counter(
            "tollhouse.refusals",
            unit="{request}",
            description="Requests refused, by binding limit",
        )
        self._shadow_refusals = meter.create_counter(
            "tollhouse.refusals.shadow",
            unit="{refusal}",
            description="Refusals a limit in shadow would have made",
        )
        self._dropped = meter.create_counter(
            "tollhouse.lessons.dropped",
            unit="{lesson}",
            description="Exchanges the estimator could not learn from",
        )
        self._faults = meter.create_counter(
            "tollhouse.ledger.faults",
            unit="{line}",
            description="Lines of the ledger that could not be settled",
        )
        self._outbox_age = meter.create_gauge(
            "tollhouse.outbox.age",
            unit="s",
            description="Age of the oldest record the aggregator does not have",
        )
        self._outbox_entries = meter.create_gauge(
            "tollhouse.outbox.entries",
            unit="{record}",
            description="Records the aggregator does not have yet",
        )
        self._outbox_refused = meter.create_gauge(
            "tollhouse.outbox.refused",
            unit="{record}",
            description="Records set aside for an operator",
        )

    def settled(self, settlement: Settlement) -> None:
        """Compare a served exchange with what was expected of it."""
        if self._provider is None:
            return
        facts, usage = settlement.facts, settlement.usage
        model = facts.served_model
        if usage.input_tokens and settlement.input_source is CountSource.BACKEND:
            ratio = facts.input_estimate / usage.input_tokens
            self._ratio.record(ratio, model, "input")
        # How long an answer would have become that its client left, nobody knows.
        if usage.output_tokens and settlement.kind is UsageKind.FINAL:
            ratio = facts.output_estimate / usage.output_tokens
            self._ratio.record(ratio, model, "output")
        over = facts.reserved_units - usage.units(facts.weights)
        if over > 0:
            self._over.record(over, model, facts.plan)
        elif over < 0:
            self._overshoot.record(-over, model, facts.plan)

    def judged(self, rung: Rung, model: str, plan: str) -> None:
        """Count a request by who judged it."""
        if self._provider is not None:
            self._admissions.add(1, rung.value, model, plan)

    def refused(self, limit: Limit, model: str, plan: str) -> None:
        """Count a request that a limit refused."""
        self._refusals.add(1, _attributes(limit, model, plan))

    def shadowed(self, limit: Limit, model: str, plan: str) -> None:
        """Count a request that a limit in shadow would have refused."""
        self._shadow_refusals.add(1, _attributes(limit, model, plan))

    def lessons_dropped(self, lessons: int) -> None:
        """Count what the estimator missed."""
        self._dropped.add(lessons)

    def faulty(self, fault: Fault) -> None:
        """Count a line of the ledger that could not be settled."""
        self._faults.add(1, {"fault": fault.value})

    def waits(self, standing: Standing) -> None:
        """Take in how much the aggregator does not have yet."""
        age_ms = standing.now_ms - standing.oldest_ms
        self._outbox_age.set(age_ms / 1000)
        self._outbox_entries.set(standing.entries)
        self._outbox_refused.set(standing.refused)

    def watch_ledger(self, lag: Callable[[], int | None]) -> None:
        """Ask for the settler's lag at each export; None: another worker reads."""

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            bytes_ = lag()
            return [] if bytes_ is None else [Observation(bytes_)]

        self._meter.create_observable_gauge(
            "tollhouse.ledger.lag",
            [observe],
            unit="By",
            description="Bytes of the ledger not settled yet",
        )


def _attributes(limit: Limit, model: str, plan: str) -> dict[str, str]:
    return {
        "limit": limit.measure.name.lower(),
        "scope": limit.scope.name.lower(),
        "model": model,
        "plan": plan,
    }
