"""docs/telemetry.md has every instrument, as it is, and none that is not."""

import re
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics.export import Gauge, Histogram
from pydantic_settings import BaseSettings

from tests import examples
from tests.measured import Measured
from tests.metric_receiver import metric_receiver
from tollhouse.adapters.authz_metrics import watch_checks
from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.certificate_metrics import watch_certificates
from tollhouse.adapters.exchange_metrics import ExchangeMetrics
from tollhouse.adapters.loss_metrics import watch_lost_spans
from tollhouse.adapters.metrics import Fault, Metrics, Rung
from tollhouse.adapters.reconcile_metrics import export_reconciled
from tollhouse.adapters.redis.backlog import Backlog
from tollhouse.adapters.redis.client import Script
from tollhouse.adapters.redis.outbox import Standing
from tollhouse.adapters.redis.vitals import Trouble, Vitals
from tollhouse.adapters.redis_metrics import watch_redis
from tollhouse.adapters.script_metrics import script_observer
from tollhouse.authz.cache import Lookup
from tollhouse.authz.convert import Verdict as Answer
from tollhouse.core.chunk import Verdict
from tollhouse.core.ending import Ending, Outcome
from tollhouse.core.ledger import Line
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.usage import TokenUsage
from tollhouse.core.windows import Receipt, Rejected

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/telemetry.md").read_text("utf-8")
ROW = re.compile(
    r"^\| `((?:tollhouse|gen_ai)[\w.]+)` \| (\w+), (\S+) \|([^|]*)\|", re.MULTILINE
)
OF_GENAI = {
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.response.model",
}
AT_MS = 1_800_000_000_000


def documented():
    """By name: kind, unit and attributes."""
    return {
        name: (kind, unit, named(attributes))
        for name, kind, unit, attributes in ROW.findall(TEXT)
    }


def named(cell):
    """The attributes of a row; what stands behind a colon are values."""
    of_genai = OF_GENAI if "of GenAI" in cell else set()
    names = " ".join(part.partition(":")[0] for part in cell.split(";"))
    return of_genai | set(re.findall(r"`([\w.]+)`", names))


def told(measured):
    """Have everything measured once."""
    provider = measured.provider
    limit = Limit(Scope.KEY, Measure.UNITS, 1)
    short = examples.settlement(
        AT_MS, usage=TokenUsage(10, 5, 4, 2), first_ms=AT_MS + 1
    )
    line = Line("DownstreamEnd", "id", "acme", "1800000000.000", 9, 200)
    exchanges = ExchangeMetrics(provider)
    for outcome, error in ((Outcome.COMPLETED, ""), (Outcome.FAILED, "cut")):
        exchanges.ended(Ending("id", "acme", outcome, error, line, short))
    metrics = Metrics(provider)
    metrics.settled(short)
    metrics.settled(examples.settlement(AT_MS, usage=TokenUsage(10, 500)))
    metrics.judged(Rung.SHARED, "m", "demo")
    metrics.refused(limit, "m", "demo")
    metrics.shadowed(limit, "m", "demo")
    metrics.lessons_dropped(1)
    metrics.waits(Standing("id", 1, 1, 0, 0, 1000))
    metrics.watch_ledger(lambda: 7)
    metrics.faulty(Fault.MISREAD)
    observe = script_observer(provider)
    assert observe is not None
    observe((Script("", "settle"), [], []), 0, 1, "ERR")
    watch_checks(
        provider, verdicts=dict.fromkeys(Answer, 1), lookups=dict.fromkeys(Lookup, 1)
    )
    watch_lost_spans(provider, lambda: 3)
    vitals = [Vitals("r", 1, 1, 1, 1, 1, frozenset(Trouble), certificate_ends=1.0)]
    watch_redis(provider, lambda: vitals)
    watch_certificates(provider, BaseSettings(), lambda: vitals)
    billing = BillingMetrics(provider)
    billing.waits(Backlog(1, 1, 1, 1))
    billing.unlinked(1)
    billing.rejected({"no_meter": 1})
    billing.answered(Verdict.ACCEPTED)
    billing.took(Receipt(1, ("id",), (Rejected("id", "why"),)))
    return measured.metrics()


def kind_of(data):
    if isinstance(data, Histogram):
        return "histogram"
    return "gauge" if isinstance(data, Gauge) else "counter"


def existing():
    """As `documented`, of what was measured."""
    return {
        name: (
            kind_of(metric.data),
            metric.unit,
            {it for point in metric.data.data_points for it in point.attributes or ()},
        )
        for name, metric in told(Measured()).items()
    }


def reconciled(monkeypatch):
    """The same of what `tollhouse reconcile` exports by itself."""
    with metric_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        export_reconciled({"missing": 3})
    return {
        it.name: (
            it.WhichOneof("data"),
            it.unit,
            {name.key for point in it.gauge.data_points for name in point.attributes},
        )
        for it in receiver.sent[0].scope_metrics[0].metrics
    }


def test_the_tables_are_what_is_measured(monkeypatch):
    """Name, kind, unit and attributes: dashboards and alerts are made from them."""
    assert documented() == existing() | reconciled(monkeypatch)


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        ("`verdict`: passed, unauthenticated, forbidden, suspended", Answer),
        ("`outcome`: hit, miss, negative", Lookup),
        ("`outcome`: completed, left, failed, refused", Outcome),
        ("`fault`: misread, failed", Fault),
        ("`rung`: shared, local, denied", Rung),
        ("`trouble`: append, rewrite, snapshot, eviction", Trouble),
    ],
)
def test_the_values_of_an_attribute(cell, values):
    """Those of the code, in the code's words."""
    (row,) = [it for it in TEXT.splitlines() if it.startswith("|") and cell in it]
    listed = re.split(r"[|;]", row[row.index(cell) :])[0].partition(": ")[2]

    assert {it.value for it in values} == set(listed.strip().split(", "))
