"""Rules and dashboards ask for what is measured.

A renamed instrument or a misspelt label would leave a panel empty and an alert silent.
"""

import json
import re
import runpy
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from tests.observability import (
    DASHBOARD_FILES,
    FOLDER,
    ROOT,
    alerts,
    grouped_by,
    matchers_in,
    metrics_in,
    panels,
    queries,
    rules,
)
from tollhouse.collector.exposition import prometheus_name
from tollhouse.collector.metrics import Kind, Metric
from tollhouse.core.chunk import Verdict

TELEMETRY = ROOT / "docs/telemetry.md"
OF_GENAI = {
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
    "error_type",
}
VERDICTS = {it.value for it in Verdict}
"""Of the provider: the table leaves them out."""
OF_EVERY_SERIES = {"job", "instance", "le"}
EXPRESSIONS = [
    *((it.get("alert") or it["record"], it["expr"]) for it in rules()),
    *((it.where, it.expr) for it in queries()),
]


@dataclass(frozen=True, slots=True)
class Documented:
    """A row of docs/telemetry.md."""

    labels: frozenset[str]
    words: str


def documented() -> Mapping[str, Documented]:
    """Series that docs/telemetry.md has, by the names that Prometheus finds."""
    found: dict[str, Documented] = {}
    row = re.compile(
        r"^\| `([\w.]+)` \| (counter|gauge|histogram), (\S+) \| (.*?) \|", re.MULTILINE
    )
    for name, kind, unit, cell in row.findall(TELEMETRY.read_text()):
        metric = Metric(name, unit, "", Kind(kind), ())
        labels = {it.replace(".", "_") for it in re.findall(r"`([\w.]+)`", cell)}
        labels |= OF_GENAI if "of GenAI" in cell else set()
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        for suffix in suffixes:
            there = Documented(frozenset(labels | OF_EVERY_SERIES), cell)
            found[prometheus_name(metric) + suffix] = there
    return found


DOCUMENTED = documented()


def test_telemetry_is_documented():
    assert "tollhouse_exchanges_total" in DOCUMENTED
    assert "tollhouse_script_duration_seconds_bucket" in DOCUMENTED


@pytest.mark.parametrize(("where", "expr"), EXPRESSIONS)
def test_expression_asks_for_what_is_measured(where, expr):
    """Names, labels and values of ours; those of Envoy and Triton a live run checks."""
    recorded = {it["record"] for it in rules() if "record" in it}
    ours = {it for it in metrics_in(expr) if it.startswith(("tollhouse", "gen_ai"))}
    assert ours <= DOCUMENTED.keys() | recorded
    for metric, label, values in matchers_in(expr):
        if (row := DOCUMENTED.get(metric)) is None:
            continue
        assert label in row.labels, f"{metric} has no {label}"
        if label in {"outcome", "kind", "verdict", "rung", "state", "type", "source"}:
            known = VERDICTS | set(re.findall(r"\w+", row.words))
            assert set(values) <= known, f"{metric}: {label} is never {values}"
    if ours and ours == metrics_in(expr) and not ours & recorded:
        known = {label for it in ours for label in DOCUMENTED[it].labels}
        assert grouped_by(expr) <= known


def test_dashboards_are_what_their_sources_say():
    """Else: python deploy/observability/generate.py."""
    rendered = runpy.run_path(str(FOLDER / "generate.py"))["rendered"]

    for file, text in rendered():
        assert file.read_text() == text, f"{file.name} is not what generate.py writes"


def test_dashboards_fit_any_installation():
    for file in DASHBOARD_FILES:
        content = json.loads(file.read_text())
        assert content["id"] is None
        sources = re.findall(r'"uid": "([^"]*)"', file.read_text())
        assert set(sources) == {"${datasource}", content["uid"]}


def test_panels_say_what_they_show():
    ids: set[tuple[str, int]] = set()
    for where, panel in panels():
        key = where.partition(":")[0], panel["id"]
        assert key not in ids
        ids.add(key)
        if panel["type"] == "row":
            continue
        assert panel["description"], where
        assert panel["fieldConfig"]["defaults"]["unit"], where
        assert all(it["legendFormat"] for it in panel["targets"]), where


def test_links_lead_into_the_runbook():
    known = {it["alert"] for it in alerts()}
    linked = {it["title"] for _, panel in panels() for it in panel.get("links", ())}

    assert linked <= known
    for _, panel in panels():
        for link in panel.get("links", ()):
            assert link["url"] == "${docs}/alerts.md#" + link["title"].lower()
