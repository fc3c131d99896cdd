"""The page that Prometheus reads: names, labels, buckets."""

import math

import pytest

from tollhouse.collector.exposition import page, prometheus_name
from tollhouse.collector.metrics import Distribution, Kind, Metric, Origin, Point

HERE = Origin("tollhouse-extproc", "local/extproc-0")
LABELS = 'job="tollhouse-extproc",instance="local/extproc-0"'


def metric(
    name: str, unit: str = "", kind: Kind = Kind.GAUGE, *points: Point
) -> Metric:
    return Metric(name, unit, "What it is", kind, points)


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        (
            "gen_ai.server.request.duration",
            "s",
            Kind.HISTOGRAM,
            "gen_ai_server_request_duration_seconds",
        ),
        ("tollhouse.tokens", "{token}", Kind.COUNTER, "tollhouse_tokens_total"),
        ("tollhouse.total.sent", "By", Kind.COUNTER, "tollhouse_sent_bytes_total"),
        ("tollhouse.age.seconds", "s", Kind.GAUGE, "tollhouse_age_seconds"),
        ("tollhouse.ratio.of", "1", Kind.GAUGE, "tollhouse_of_ratio"),
        ("tollhouse.ratio", "1", Kind.HISTOGRAM, "tollhouse_ratio"),
        ("speed", "m/s", Kind.GAUGE, "speed_m_per_second"),
        ("rate", "{request}/s", Kind.GAUGE, "rate_per_second"),
        ("5xx", "", Kind.GAUGE, "_5xx"),
    ],
)
def test_names_are_the_collectors(name, unit, kind, expected):
    """Of the OpenTelemetry Collector's exporter: queries hold for both."""
    assert prometheus_name(metric(name, unit, kind)) == expected


def test_a_histogram_counts_up():
    """Bounds are written as Go writes them: Prometheus compares labels as texts."""
    distribution = Distribution([0.005, 1.0, 4194304.0], [1, 0, 2, 4], 12.5)
    point = Point({"gen_ai.request.model": "m"}, distribution)
    text = page([(HERE, metric("d", "s", Kind.HISTOGRAM, point))])

    labels = f'gen_ai_request_model="m",{LABELS}'
    assert text.splitlines() == [
        "# HELP d_seconds What it is",
        "# TYPE d_seconds histogram",
        f'd_seconds_bucket{{{labels},le="0.005"}} 1',
        f'd_seconds_bucket{{{labels},le="1"}} 1',
        f'd_seconds_bucket{{{labels},le="4.194304e+06"}} 3',
        f'd_seconds_bucket{{{labels},le="+Inf"}} 7',
        f"d_seconds_sum{{{labels}}} 12.5",
        f"d_seconds_count{{{labels}}} 7",
    ]


def test_families_stand_together():
    """Whoever sent them: a family in two places makes Prometheus refuse the page."""
    other = Origin("tollhouse-billing", "b")
    one, two = (metric(name, "", Kind.GAUGE, Point({}, 1.0)) for name in "ab")
    text = page([(HERE, one), (HERE, two), (other, one)])

    assert [line for line in text.splitlines() if line[0] != "#"] == [
        f"a{{{LABELS}}} 1.0",
        'a{job="tollhouse-billing",instance="b"} 1.0',
        f"b{{{LABELS}}} 1.0",
    ]


def test_a_family_is_of_one_kind():
    gauge = metric("a_total", "", Kind.GAUGE, Point({}, 1.0))
    counter = metric("a", "", Kind.COUNTER, Point({}, 2.0))
    text = page([(HERE, gauge), (HERE, counter)])

    assert text.splitlines()[1:] == [
        "# TYPE a_total gauge",
        f"a_total{{{LABELS}}} 1.0",
    ]


def test_values_are_escaped():
    """A label's value can't end its line, or itself."""
    point = Point({"x": 'a"b\\c\nd', "9.b": "", "_c": ""}, math.inf)
    text = page([(HERE, Metric("m", "", "one\ntwo", Kind.GAUGE, [point]))])

    assert text.splitlines() == [
        "# HELP m one\\ntwo",
        "# TYPE m gauge",
        f'm{{x="a\\"b\\\\c\\nd",key_9_b="",key_c="",{LABELS}}} +Inf',
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "NaN"), (-math.inf, "-Inf"), (0.1, "0.1")]
)
def test_numbers(value, text):
    line = page([(HERE, metric("m", "", Kind.GAUGE, Point({}, value)))])

    assert line.endswith(f"}} {text}\n")
