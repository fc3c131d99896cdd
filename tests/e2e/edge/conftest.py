"""One Envoy for the tests of the edge."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.e2e.edge.edge import Edge, running_edge


def find_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def edge(tmp_path_factory) -> AsyncIterator[Edge]:
    """An Envoy whose services work; its ledger beats every 0.2 s."""
    folder: Path = tmp_path_factory.mktemp("edge")
    async with running_edge(
        folder, find_port, patched={"access_log_flush_interval": "0.2s"}
    ) as running:
        yield running
