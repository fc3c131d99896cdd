"""Fixtures for every test: a real redis-server, free ports."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.redis_process import RedisServer, running_redis

ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let no two end-to-end tests run at once, and keep each other file together."""
    for item in items:
        place = item.path.relative_to(ROOT)
        group = "e2e" if place.parts[0] == "e2e" else str(place)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One redis-server for the whole run; to kill one, start it by `running_redis`."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of the run's redis-server, emptied of data, scripts kept."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Return a function that finds a TCP port of 127.0.0.1 nobody listens on.

    No port comes twice. Another process could take it meanwhile: start the
    listener soon.
    """
    handed_out: set[int] = set()

    def find() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            if port not in handed_out:
                handed_out.add(port)
                return port

    return find
