"""Fixtures for every test: a real redis-server, free ports."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from xdist.scheduler import LoadFileScheduling

from tests.attempts import (  # noqa: F401  # hooks
    pytest_configure,
    pytest_runtest_protocol,
    pytest_terminal_summary,
)
from tests.redis_process import RedisServer, running_redis
from tests.trace_receiver import TraceReceiver


class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands each file out whole, and end-to-end tests in two parts.

    No two tests with a whole stack run at once; those of the edge alone bear company.
    Both begin, and the files of short tests come last: they fill what is left.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = nodeid.partition("::")[0]
        if file.startswith(("tests/e2e/attacks/", "tests/e2e/backends/")):
            return "edge"
        return "e2e" if file.startswith("tests/e2e/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Say who of several workers gets which test."""
    config.option.loadscopereorder = False  # the order of the folders is the right one
    return Scheduling(config, log)


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
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceReceiver]:
    """Where a `Tracing` that is opened meanwhile sends its spans."""
    with TraceReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.endpoint)
        yield receiver


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
