"""Where telemetry goes."""

import pytest

from tollhouse.adapters.address import Address
from tollhouse.cli.receiver import Receiver, exported_to

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
HERE = Receiver(Address(host="127.0.0.1", port=1), Address(host="127.0.0.1", port=2))


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("http://127.0.0.1:4444", Address(host="127.0.0.1", port=4444)),
        ("http://collector", Address(host="collector", port=4317)),
        ("http://[::1]:4317/", Address(host="::1", port=4317)),
        ("https://collector:4317", None),
        ("collector:4317", None),
        ("", None),
    ],
)
def test_envoy_exports_where_our_services_do(monkeypatch, endpoint, address):
    monkeypatch.setenv(ENDPOINT, endpoint)

    assert exported_to() == address


def test_what_is_asked_for_goes_before_the_environment():
    """`--telemetry` means here; how often is still the operator's to say."""
    told = HERE.environment({ENDPOINT: "http://elsewhere:1", INTERVAL: "9", "A": "b"})

    assert told[ENDPOINT] == "http://127.0.0.1:1"
    assert told[INTERVAL] == "9"
    assert told["A"] == "b"
    assert HERE.traces_url == "http://127.0.0.1:2/v1/traces"
