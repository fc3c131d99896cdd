"""What the parts of the local stack get of our environment."""

import os

# The rest, secrets included, stays here.
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"),
    *("LD_LIBRARY_PATH", "PYTHONPATH"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_METRIC_EXPORT_INTERVAL"),
    "OTEL_BSP_SCHEDULE_DELAY",
)


def base_environment() -> dict[str, str]:
    """Return the part of our environment that children get."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
        "PYTHONUNBUFFERED": "1"
    }
