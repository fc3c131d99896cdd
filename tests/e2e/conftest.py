"""Fixtures of the end-to-end tests: a running stack, and keys for it."""

import json
from collections.abc import Iterator

import pytest

from tests.attempts import attempt
from tests.e2e.running_stack import RunningStack, running_stack, short_folder


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """One `tollhouse up` for the run; to kill parts of one, start it yourself.

    Its engine is fast, its demo key is on the plan `demo`.
    """
    with short_folder() as folder, running_stack(folder) as running:
        yield running


@pytest.fixture
def make_key(stack, request):
    """Make a tenant on a plan, with a key."""

    def make(tenant: str, plan: str) -> str:
        if again := attempt(request.node):
            tenant = f"{tenant}-{again}"
        stack.run("tenants", "create", tenant, "--plan", plan)
        created = stack.run("keys", "create", "--tenant", tenant, "--json")
        key: str = json.loads(created)["key"]
        return key

    return make
