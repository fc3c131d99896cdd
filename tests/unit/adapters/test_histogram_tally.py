"""Our own histograms say what the SDK's would."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import Histogram

from tests.measured import Measured
from tests.metric_receiver import metric_receiver
from tollhouse.adapters.histogram_tally import HistogramTally
from tollhouse.adapters.metric_export import close_export, open_export

BOUNDS = (0.5, 1, 2.5)
ABOUT = {"unit": "s", "description": "How long"}


def tally(provider):
    return HistogramTally(provider.get_meter("t"), "ours", "a b", BOUNDS, **ABOUT)


def values():
    return st.one_of(st.sampled_from((*BOUNDS, 0, 9)), st.floats(0, 5))


@settings(max_examples=20)
@given(st.lists(st.tuples(values(), st.sampled_from("xy")), min_size=1))
def test_it_is_the_sdks_of_the_same_values(told):
    """In buckets, bounds included, sum, extremes, attributes, unit and words."""
    measured = Measured()
    ours = tally(measured.provider)
    theirs = measured.provider.get_meter("t").create_histogram(
        "theirs", explicit_bucket_boundaries_advisory=BOUNDS, **ABOUT
    )
    for value, word in told:
        ours.record(value, word, "z")
        theirs.record(value, {"a": word, "b": "z"})

    def compared(name):
        metric: Any = measured.metrics()[name]
        points = [
            replace(
                it, start_time_unix_nano=0, time_unix_nano=0, bucket_counts=[*counts]
            )
            for it in metric.data.data_points
            for counts in [it.bucket_counts]
        ]
        data = replace(metric.data, data_points=points)
        return replace(metric, name="", data=data)

    assert isinstance(compared("ours").data, Histogram)
    assert compared("theirs") == compared("ours")


def test_an_attribute_that_is_none_is_left_out():
    measured = Measured()
    ours = tally(measured.provider)

    ours.record(1, "x", None)
    ours.record(1, "x", "y")

    assert [({"a": "x"}, 1), ({"a": "x", "b": "y"}, 1)] == measured.points()["ours"]


def test_without_a_value_there_is_none():
    measured = Measured()
    tally(measured.provider)

    assert {} == measured.points()


def test_it_arrives_as_a_histogram_of_the_whole_life(monkeypatch):
    with metric_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        provider: Any = open_export("extproc", "1")
        ours = tally(provider)
        for value in (0.5, 0.75):
            ours.record(value, "x", "y")
            provider.force_flush()
        close_export(provider)

    points = [
        metric.histogram.data_points[0]
        for resource in receiver.sent
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    assert [(1, [1, 0, 0, 0]), (2, [1, 1, 0, 0])] == [
        (point.count, list(point.bucket_counts)) for point in points[:2]
    ]
    assert points[0].start_time_unix_nano == points[1].start_time_unix_nano
