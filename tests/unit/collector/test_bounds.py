"""The collector keeps the latest, and no more than it has room for."""

from tollhouse.collector import metrics as of_metrics
from tollhouse.collector import spans as of_spans
from tollhouse.collector.metrics import Kind, Metric, Metrics, Origin, Point
from tollhouse.collector.spans import Root, Span, Traces


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def span(trace_id: str, span_id: str, parent: str = "", started_ns: int = 0) -> Span:
    return Span(
        service="tollhouse-edge",
        instance="",
        name=f"span {span_id}",
        kind="server",
        trace_id=trace_id,
        span_id=span_id,
        parent=parent,
        started_ns=started_ns,
        ended_ns=started_ns + 1,
        attributes={},
        links=[],
        events=[],
        has_failed=False,
        message="",
    )


def test_a_trace_is_what_came_of_it_in_order():
    clock = Clock()
    traces = Traces(clock)
    traces.take([span("t", "child", "root", 2)])
    clock.now += 3
    traces.take([span("t", "root", "of a client", 1)])
    traces.take([span("t", "root", "of a client", 1)])  # an exporter tried again
    clock.now += 2

    found = traces.find("t")
    assert found is not None
    assert [it.span_id for it in found.spans] == ["root", "child"]
    (summary,) = traces.latest(10)
    assert (summary.spans, summary.quiet_seconds) == (2, 2.0)
    assert summary.root == Root("tollhouse-edge", "span root", 1)
    assert traces.find("another") is None


def test_the_traces_not_heard_of_for_longest_go():
    traces = Traces()
    traces.take(span(f"t{number}", "a") for number in range(of_spans.MOST_TRACES))
    traces.take([span("t0", "b"), span("new", "a")])

    assert traces.find("t0") is not None
    assert traces.find("t1") is None
    assert [it.trace_id for it in traces.latest(2)] == ["new", "t0"]


def test_one_trace_does_not_push_out_the_others():
    most = of_spans.MOST_SPANS_PER_TRACE
    traces = Traces()
    traces.take([span("small", "a")])
    traces.take(span("large", f"{number}") for number in range(most + 10))

    large = traces.find("large")
    assert large is not None
    assert len(large.spans) == most
    assert traces.find("small") is not None


def test_spans_are_bounded_in_all():
    most, each = of_spans.MOST_SPANS, of_spans.MOST_SPANS_PER_TRACE
    traces = Traces()
    for trace in range(most // each + 2):
        traces.take(span(f"t{trace}", f"{number}") for number in range(each))

    assert sum(it.spans for it in traces.latest(10_000)) == most
    assert traces.find("t0") is None


def gauge(name: str, *values: float) -> Metric:
    return Metric(name, "", "", Kind.GAUGE, [Point({}, value) for value in values])


def test_the_last_export_of_each_process_counts():
    metrics = Metrics()
    here, there = Origin("extproc", "0"), Origin("extproc", "1")
    metrics.take(here, [gauge("a", 1), gauge("b", 1)])
    metrics.take(there, [gauge("a", 2)])
    metrics.take(here, [gauge("a", 3)])

    assert {
        (origin.instance, metric.name): metric.points[0].value
        for origin, metric in metrics
    } == {("0", "a"): 3, ("1", "a"): 2}


def test_a_process_that_is_gone_is_forgotten():
    """A worker that was restarted under another name is not counted twice for ever."""
    clock = Clock()
    metrics = Metrics(clock)
    metrics.take(Origin("extproc", "old"), [gauge("a", 1)])
    clock.now += of_metrics.EXPIRY_SECONDS / 2
    metrics.take(Origin("extproc", "new"), [gauge("a", 1)])
    clock.now += of_metrics.EXPIRY_SECONDS / 2 + 1

    assert [origin.instance for origin, _ in metrics] == ["new"]


def test_series_are_bounded():
    metrics = Metrics()
    half = [1.0] * (of_metrics.MOST_SAMPLES // 2)
    for instance in "abc":
        metrics.take(Origin("extproc", instance), [gauge("a", *half)])

    assert [origin.instance for origin, _ in metrics] == ["b", "c"]
    metrics.take(Origin("extproc", "d"), [gauge("a", *half, *half, 1.0)])
    assert list(metrics) == []
