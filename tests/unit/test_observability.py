"""Alerts name what is measured; a renamed instrument must not silence one."""

import re
from pathlib import Path

import yaml
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.metrics import Metrics
from tollhouse.adapters.redis.backlog import Backlog
from tollhouse.adapters.redis.outbox import Standing
from tollhouse.core.windows import Outcome, Rejected

ROOT = Path(__file__).resolve().parents[2]
RULES = yaml.safe_load((ROOT / "deploy/observability/billing-rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]

# https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics
_UNITS = {"s": "_seconds", "By": "_bytes"}


def exported():
    """Names as a Prometheus finds them, of everything that has a value."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    metrics, billing = Metrics(provider), BillingMetrics(provider)
    metrics.waits(Standing("id", 1, 1, 0, 0, 1000))
    metrics.watch_ledger(lambda: 7)
    billing.waits(Backlog(1, 1, 1, 1))
    billing.unlinked(1)
    billing.rejected({"no_meter": 1})
    billing.took(Outcome(1, 1, (Rejected("id", "why"),)))
    told = reader.get_metrics_data()
    assert told is not None
    return {
        it.name.replace(".", "_")
        + _UNITS.get(it.unit or "", "")
        + ("_total" if hasattr(it.data, "is_monotonic") else "")
        for it in told.resource_metrics[0].scope_metrics[0].metrics
    }


def test_every_alert_asks_for_what_is_measured():
    asked = {
        name
        for rule in ALERTS
        for name in re.findall(r"tollhouse_[a-z_]+", rule["expr"])
    }

    assert asked
    assert asked <= exported()


def test_every_alert_says_what_to_do():
    """A heading of its runbook for each."""
    for rule in ALERTS:
        page, _, heading = rule["annotations"]["runbook"].partition("#")
        text = (ROOT / page).read_text()

        assert re.search(rf"^#+ {heading}$", text, re.MULTILINE | re.IGNORECASE), rule[
            "alert"
        ]
