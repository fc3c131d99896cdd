"""Where the local stack's telemetry goes: to a collector of its own, or to another."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tollhouse.adapters.address import Address

_OTLP_PORT = 4317
# Soon after a request its spans are all there, and a page shows what happens now.
_PACE = {"OTEL_BSP_SCHEDULE_DELAY": "500", "OTEL_METRIC_EXPORT_INTERVAL": "2000"}


@dataclass(frozen=True, slots=True)
class Receiver:
    """The stack's own collector (`tollhouse.collector`)."""

    grpc: Address
    http: Address

    @property
    def url(self) -> str:
        """Where its pages are: /metrics, /traces."""
        return f"http://{self.http}"

    @property
    def traces_url(self) -> str:
        """Where it takes spans over HTTP."""
        return f"{self.url}/v1/traces"

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Have a child export here; how often may be said in `base`."""
        here = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.grpc}"}
        return {**_PACE, **base, **here}


def exported_to() -> Address | None:
    """Return where the environment has OTLP/gRPC go, None if nowhere.

    Envoy exports there, too; not over TLS, which it would have to be told about.
    """
    url = urlsplit(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""))
    if url.scheme != "http" or not url.hostname:
        return None
    return Address(host=url.hostname, port=url.port or _OTLP_PORT)
