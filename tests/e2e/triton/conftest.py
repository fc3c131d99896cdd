"""One stack for clients that speak Triton's own protocols."""

import json
from collections.abc import Iterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
import yaml

from tests.attempts import attempt
from tests.e2e.running_stack import (
    ROOT,
    RunningStack,
    running_stack,
    short_folder,
    write_config,
)

ROOMY = {"requests_per_minute": 1_000_000, "units_per_minute": 100_000_000}
PLANS = {
    "demo": {"burst_seconds": 10},
    "roomy": {"key": ROOMY},
    # Of all keys of a tenant, as the promise has it.
    "places": {"key": ROOMY, "tenant": {"concurrent": 64}},
    # Three at once, and then none for longer than a machine stands still.
    "tight": {"key": {"requests_per_minute": 6}, "burst_seconds": 30},
}
# Slow enough that 0.2 s of tokens are a number worth checking.
ENGINE = {"ttft_ms": 10, "itl_ms": 10, "prefill_ms_per_token": 0, "max_num_seqs": 64}
UNARY = "tiny-unary"
"""A model that answers each request once; the others stream."""
RENAMED = "tiny-renamed"
"""One whose Triton calls it by another name."""


def models() -> dict[str, Any]:
    """The repository's model, and two that serve nothing but `infer`."""
    known: dict[str, Any] = yaml.safe_load((ROOT / "tollhouse.yaml").read_text())
    model = known["models"]["tiny-chat"] | {"operations": ["infer"]}
    renamed = model["triton"] | {"model": "in-the-repository"}
    return known["models"] | {UNARY: model, RENAMED: model | {"triton": renamed}}


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """The stack of this folder's tests."""
    with short_folder() as folder:
        config = write_config(
            folder / "triton.yaml", models=models(), plans=PLANS, engine=ENGINE
        )
        with running_stack(folder, config=config) as running:
            yield running


@pytest.fixture
def make_key(stack):
    """Make a tenant on a plan, with a key that may infer."""

    def make(tenant: str, plan: str = "roomy") -> str:
        stack.run("tenants", "create", tenant, "--plan", plan)
        scopes = ("--scope", "infer:write", "--scope", "models:read")
        created = stack.run("keys", "create", "--tenant", tenant, *scopes, "--json")
        key: str = json.loads(created)["key"]
        return key

    return make


@pytest.fixture
def tenant(request) -> str:
    """A tenant of the test's own, and of this attempt."""
    module: str = request.module.__name__.rpartition("test_")[2]
    name = request.node.name.partition("[")[0].removeprefix("test_")
    name = f"{module}-{name}".replace("_", "-")[:60].rstrip("-")
    return f"{name}-{again}" if (again := attempt(request.node)) else name


@pytest_asyncio.fixture
async def channel(stack):
    """One connection to the gateway."""
    address = stack.base_url.removeprefix("http://").removesuffix("/v1")
    async with grpc.aio.insecure_channel(address) as made:
        yield made
