"""One stack for the main job's tests: plans for load, for exact books, for refusals."""

from collections.abc import Iterator

import pytest

from tests.e2e.running_stack import (
    RunningStack,
    running_stack,
    short_folder,
    write_config,
)

ROOMY = {
    "requests_per_minute": 1_000_000,
    "units_per_minute": 10_000,
    "concurrent": 1000,
}
"""Room for a whole run at once, and hardly any refill while it lasts."""
PLANS = {
    "demo": {"burst_seconds": 10},
    "roomy": {"key": ROOMY, "tenant_model": ROOMY, "burst_seconds": 3600},
    "tight": {"key": {"requests_per_minute": 30}, "burst_seconds": 4},
}
# Slow enough that 0.2 s of tokens are a number worth checking.
ENGINE = {"ttft_ms": 10, "itl_ms": 5, "prefill_ms_per_token": 0, "max_num_seqs": 64}
UNENDING = ENGINE | {"natural_end": False, "faults": True}
"""Only its cap ends an answer, and not where the prompt has it stop sooner."""


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """The stack of this folder's tests."""
    with short_folder() as folder:
        config = write_config(folder / "main.yaml", plans=PLANS, engine=UNENDING)
        with running_stack(folder, config=config) as running:
            yield running


@pytest.fixture
def limited_key(make_key, request):
    """A key that admits two requests at once, and one more every two seconds."""
    name = request.node.name.replace("_", "-").replace("test-", "")
    return make_key(name[:60], "tight")
