"""What the aggregator measures, through OpenTelemetry.

| instrument | says |
|---|---|
| `tollhouse.records` | usage records by `outcome`: applied, duplicate, rejected |
| `tollhouse.chunks.open` | chunks that the provider does not have yet |
| `tollhouse.chunks.open.age` | since when the first of them is sealed, seconds |
| `tollhouse.chunks.parked` | chunks that wait for an operator |
| `tollhouse.rows.overdue` | rows that should have been sealed over an hour ago |
| `tollhouse.tenants.unlinked` | tenants with usage and no customer at the provider |
| `tollhouse.provider.calls` | attempts by `verdict` |
| `tollhouse.events.rejected` | events Stripe took and found wrong later, by `code` |

None has a tenant: their number has no bound.
"""

from collections.abc import Mapping

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider

from tollhouse.adapters.redis.backlog import Backlog
from tollhouse.core.chunk import Verdict
from tollhouse.core.windows import Receipt


class BillingMetrics:
    """Every instrument of the billing process; without a provider none measures."""

    def __init__(self, provider: MeterProvider | None = None) -> None:
        meter = (provider or NoOpMeterProvider()).get_meter("tollhouse")
        self._records = meter.create_counter(
            "tollhouse.records",
            unit="{record}",
            description="Usage records, by outcome",
        )
        self._open = meter.create_gauge(
            "tollhouse.chunks.open", unit="{chunk}", description="Chunks not sent yet"
        )
        self._age = meter.create_gauge(
            "tollhouse.chunks.open.age",
            unit="s",
            description="Age of the oldest chunk not sent yet",
        )
        self._parked = meter.create_gauge(
            "tollhouse.chunks.parked",
            unit="{chunk}",
            description="Chunks that wait for an operator",
        )
        self._overdue = meter.create_gauge(
            "tollhouse.rows.overdue",
            unit="{row}",
            description="Rows that should have been sealed over an hour ago",
        )
        self._unlinked = meter.create_gauge(
            "tollhouse.tenants.unlinked",
            unit="{tenant}",
            description="Tenants with usage and no customer at the provider",
        )
        self._calls = meter.create_counter(
            "tollhouse.provider.calls",
            unit="{attempt}",
            description="Attempts to bring a chunk to the provider, by verdict",
        )
        self._rejected = meter.create_counter(
            "tollhouse.events.rejected",
            unit="{event}",
            description="Events that Stripe found wrong afterwards, by code",
        )

    def took(self, receipt: Receipt) -> None:
        """Count what became of a batch of records."""
        counts = {
            "applied": receipt.applied,
            "duplicate": receipt.duplicates,
            "rejected": len(receipt.rejected),
        }
        for name, count in counts.items():
            if count:
                self._records.add(count, {"outcome": name})

    def answered(self, verdict: Verdict) -> None:
        """Count an attempt."""
        self._calls.add(1, {"verdict": verdict.value})

    def rejected(self, counts: Mapping[str, int]) -> None:
        """Count what a report says, by Stripe's code."""
        for code, count in counts.items():
            self._rejected.add(count, {"code": code})

    def unlinked(self, tenants: int) -> None:
        """Take in how many tenants can't be billed."""
        self._unlinked.set(tenants)

    def waits(self, backlog: Backlog) -> None:
        """Take in how much waits."""
        self._open.set(backlog.open_chunks)
        self._age.set(backlog.oldest_open_seconds)
        self._parked.set(backlog.parked_chunks)
        self._overdue.set(backlog.overdue_rows)
