"""One stack for what clients meet at their limits: units are tokens here."""

from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.running_stack import (
    RunningStack,
    running_stack,
    short_folder,
    write_config,
)

ROOMY = {"requests_per_minute": 1_000_000, "units_per_minute": 100_000_000}
PLANS = {
    "demo": {},
    "roomy": {"tenant": ROOMY, "burst_seconds": 3600},
    "thousand": {"tenant_model": {"units_per_minute": 1000}, "burst_seconds": 60},
    "four-at-once": {"policy": "strict", "tenant": {"concurrent": 4}},
    "daily": {"policy": "strict", "tenant": {"units_per_day": 300}},
    "small": {"tenant_model": {"units_per_minute": 1000}, "burst_seconds": 10},
    "strict": {"policy": "strict"},
    "changing": {"tenant": {"concurrent": 1000}},
}


@pytest.fixture(scope="session")
def config() -> Iterator[object]:
    """The configuration file of the stack; a test may change it."""
    with short_folder() as folder:
        path = write_config(folder / "limits.yaml", plans=PLANS)
        content = yaml.safe_load(path.read_text())
        content["models"]["tiny-chat"]["weights"] = {
            "input": 1,
            "cached_input": 1,
            "output": 1,
        }
        path.write_text(yaml.safe_dump(content))
        yield path


@pytest.fixture(scope="session")
def stack(config) -> Iterator[RunningStack]:
    """The stack of this folder's tests."""
    with running_stack(config.parent, config=config) as running:
        yield running
