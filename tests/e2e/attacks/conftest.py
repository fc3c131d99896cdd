"""One rig for all rows, and an Envoy for each variant of the edge."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest_asyncio

from tests.e2e.attacks.rig import VARIANTS, Gateway, Rig, running_rig
from tests.e2e.running_stack import short_folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rig() -> AsyncIterator[Rig]:
    """Redis, authz and extproc."""
    with short_folder() as folder:
        async with running_rig(folder) as running:
            yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateways(rig) -> AsyncIterator[dict[str, Gateway]]:
    """An Envoy per variant."""
    async with AsyncExitStack() as stack:
        yield {
            it: await stack.enter_async_context(rig.gateway(it, variant=it))
            for it in VARIANTS
        }
