"""Metrics as a page that Prometheus reads.

Named as the OpenTelemetry Collector's `prometheus` exporter names them, so that a query
holds for both: units and `_total` are part of the name
(https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/).
The format is text 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

from tollhouse.collector.metrics import Distribution, Kind, Metric, Origin, Point

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_UNITS = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "%": "percent",
    "1": "",
}
_PER_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
_SEPARATOR = re.compile(r"[^a-zA-Z0-9]+")
_NO_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_LARGE = 1e6


def page(metrics: Iterable[tuple[Origin, Metric]]) -> str:
    """Write all metrics; those of one name stand together, as the format wants."""
    families: dict[str, list[tuple[Origin, Metric]]] = {}
    for origin, metric in metrics:
        families.setdefault(prometheus_name(metric), []).append((origin, metric))
    lines: list[str] = []
    for name, members in sorted(families.items()):
        kind = members[0][1].kind
        lines += (
            f"# HELP {name} {_escaped(members[0][1].description)}",
            f"# TYPE {name} {kind.value}",
        )
        for origin, metric in members:
            if metric.kind is kind:  # the format has no family of two kinds
                for point in metric.points:
                    lines += _samples(name, origin, point)
    return "\n".join([*lines, ""])


def prometheus_name(metric: Metric) -> str:
    """Return what the Collector calls a metric: words, unit, `total` or `ratio`."""
    words = [word for word in _SEPARATOR.split(metric.name) if word]
    unit, slash, per = metric.unit.partition("/")
    if "{" not in unit and unit:
        _add(words, _UNITS.get(unit, unit))
    if slash and per and "{" not in per:
        words += ["per", _PER_UNITS.get(per, per)]
    if metric.kind is Kind.COUNTER:
        words = [*(word for word in words if word != "total"), "total"]
    if metric.kind is Kind.GAUGE and metric.unit == "1":
        words = [*(word for word in words if word != "ratio"), "ratio"]
    name = "_".join(words)
    return f"_{name}" if name[:1].isdigit() else name


def _add(words: list[str], unit: str) -> None:
    words += [it for it in _SEPARATOR.split(unit) if it and it not in words]


def _samples(name: str, origin: Origin, point: Point) -> Iterator[str]:
    labels = {
        **{_label(key): value for key, value in point.attributes.items()},
        "job": origin.job,
        "instance": origin.instance,
    }
    value = point.value
    if not isinstance(value, Distribution):
        yield f"{name}{_braced(labels)} {_number(value)}"
        return
    below = 0
    for bound, count in zip((*value.bounds, math.inf), value.counts, strict=True):
        below += count
        yield f"{name}_bucket{_braced(labels | {'le': _bound(bound)})} {below}"
    yield f"{name}_sum{_braced(labels)} {_number(value.sum)}"
    yield f"{name}_count{_braced(labels)} {below}"


def _braced(labels: Mapping[str, str]) -> str:
    pairs = (
        '{}="{}"'.format(name, _escaped(value).replace('"', r"\""))
        for name, value in labels.items()
    )
    return f"{{{','.join(pairs)}}}"


def _label(name: str) -> str:
    label = _NO_LABEL.sub("_", name)
    if label[:1].isdigit():
        return f"key_{label}"
    return f"key{label}" if label.startswith("_") else label


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else f"{value!r}"


def _bound(bound: float) -> str:
    """Write a bucket's bound as Go does: labels are compared as texts."""
    if math.isinf(bound):
        return "+Inf"
    if abs(bound) < _LARGE:
        return repr(bound).removesuffix(".0")
    mantissa, _, exponent = f"{Decimal(repr(bound)).normalize():e}".partition("e")
    return f"{mantissa}e{int(exponent):+03d}"
