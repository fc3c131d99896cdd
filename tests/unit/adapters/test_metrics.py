"""What is measured, under which names, and that little of it can grow."""

import time
from dataclasses import replace

import pytest
from msgspec import structs

from tests import examples
from tests.measured import Measured
from tests.metric_receiver import metric_receiver
from tollhouse.adapters.metric_export import close_export, open_export
from tollhouse.adapters.metrics import Metrics, Rung
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

LIMIT = Limit(Scope.TENANT_MODEL, Measure.UNITS_PER_DAY, 1000)
SETTLED = examples.settlement(
    1_800_000_000_000,
    facts=examples.facts(
        served_model="m-2", reserved_units=120, input_estimate=20, output_estimate=20
    ),
    usage=TokenUsage(10, 4),
)


@pytest.fixture
def measured():
    return Measured()


@pytest.fixture
def metrics(measured):
    return Metrics(measured.provider)


OF = {"model": "m-2", "plan": "demo"}
INPUT = ({"model": "m-2", "what": "input"}, 2.0)
OUTPUT = ({"model": "m-2", "what": "output"}, 5.0)


def test_a_reservation_that_took_too_much(measured, metrics):
    metrics.settled(SETTLED)

    assert {
        "tollhouse.estimate.ratio": [INPUT, OUTPUT],
        "tollhouse.reservation.over": [(OF, 90)],
    } == measured.points()


def test_a_reservation_that_took_too_little(measured, metrics):
    metrics.settled(replace(SETTLED, usage=TokenUsage(10, 40)))

    points = measured.points()
    assert [(OF, 90)] == points["tollhouse.reservation.overshoot"]
    assert "tollhouse.reservation.over" not in points


def test_an_input_nobody_counted_is_no_measure_of_its_estimate(measured, metrics):
    metrics.settled(replace(SETTLED, input_source=CountSource.ESTIMATE))

    assert [OUTPUT] == measured.points()["tollhouse.estimate.ratio"]


def test_an_answer_whose_client_left_is_no_measure_of_its_estimate(measured, metrics):
    metrics.settled(replace(SETTLED, kind=UsageKind.PARTIAL))

    points = measured.points()
    assert [INPUT] == points["tollhouse.estimate.ratio"]
    assert [(OF, 90)] == points["tollhouse.reservation.over"]


def test_verdicts_are_counted_by_limit_scope_and_rung(measured, metrics):
    metrics.judged(Rung.LOCAL, "m-2", "demo")
    metrics.refused(LIMIT, "m-2", "demo")
    metrics.refused(LIMIT, "m-2", "demo")
    metrics.shadowed(structs.replace(LIMIT, scope=Scope.KEY), "m-2", "demo")
    metrics.lessons_dropped(3)

    limit = {"limit": "units_per_day", "scope": "tenant_model", **OF}
    assert {
        "tollhouse.admissions": [({"rung": "local", **OF}, 1)],
        "tollhouse.refusals": [(limit, 2)],
        "tollhouse.refusals.shadow": [({**limit, "scope": "key"}, 1)],
        "tollhouse.lessons.dropped": [({}, 3)],
    } == measured.points()


def test_the_ledgers_lag_is_told_by_its_reader_only(measured, metrics):
    lags = iter((42, None))
    metrics.watch_ledger(lambda: next(lags))

    assert {"tollhouse.ledger.lag": [({}, 42)]} == measured.points()
    assert {} == measured.points()


def test_keys_and_tenants_make_no_series(measured, metrics):
    for number in range(100):
        facts = examples.facts(key_id=f"k{number}", tenant=f"t{number}")
        metrics.settled(replace(SETTLED, facts=facts))

    assert [2, 1] == [len(points) for points in measured.points().values()]


@pytest.fixture
def receiver():
    with metric_receiver() as receiver:
        yield receiver


def test_exports_where_the_environment_says(receiver, monkeypatch):
    """Process and service named, unless the operator names them otherwise."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=gate,zone=b")
    export = open_export("extproc", "node/extproc-0")
    Metrics(export).refused(LIMIT, "m-2", "demo")
    close_export(export)

    (resource_metrics,) = receiver.sent
    told = {
        it.key: it.value.string_value for it in resource_metrics.resource.attributes
    }
    assert ("gate", "b", "node/extproc-0") == (
        told["service.name"],
        told["zone"],
        told["service.instance.id"],
    )
    names = [it.name for it in resource_metrics.scope_metrics[0].metrics]
    assert ["tollhouse.refusals"] == names


def test_without_an_endpoint_nothing_is_measured(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    export = open_export("extproc", "node/extproc-0")
    metrics = Metrics(export)
    metrics.settled(SETTLED)
    metrics.refused(LIMIT, "m-2", "demo")
    close_export(export)

    assert export is None


@pytest.mark.timed
def test_a_collector_that_is_away_keeps_no_process_from_ending(monkeypatch, free_port):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    export = open_export("extproc", "node/extproc-0")
    Metrics(export).refused(LIMIT, "m-2", "demo")
    before = time.monotonic()

    close_export(export)

    assert time.monotonic() - before < 10
