"""A real aggregator, real relays and real Redis servers, and records to feed them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import grpc.aio
import pytest
import redis

from tests.redis_process import RedisServer
from tollhouse.adapters.redis.client import Redis
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2_grpc as usage_grpc

START_SECONDS = 60.0
CONFIG = Path(__file__).resolve().parents[3] / "tollhouse.yaml"

RELAY = """
import sys
from tollhouse.adapters import logs
from tollhouse.adapters.process import run
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.outbox import Outbox
from tollhouse.adapters.remote import Remote
from tollhouse.extproc.relay import Relay

async def main(process):
    logs.configure("relay")
    redis = await Redis.connect(sys.argv[1])
    relay = Relay(Outbox(redis, sys.argv[3]), Remote(sys.argv[2]),
                  sweep_seconds=0.2, claim_idle_seconds=float(sys.argv[4]))
    async def nothing(): pass
    await process.hold([relay.run], ready=nothing, drain=nothing)

run("relay", main)
"""


class Part:
    """One of our processes, killed and started again at will."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self._command, self._env, self._log = command, env, log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._env},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    @property
    def log(self) -> str:
        return self._log.read_text()


class StartRelay(Protocol):
    def __call__(self, name: str, claim_idle_seconds: float = 0.5) -> Part: ...


class Aggregator(Part):
    """The real process, on a socket of its own."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.socket_path = folder / "billing.sock"
        self.target = f"unix:{self.socket_path}"
        settings = {
            "TOLLHOUSE_LISTEN": self.target,
            "TOLLHOUSE_BILLING_REDIS_URL": redis_url,
            "TOLLHOUSE_CONFIG": str(CONFIG),
            "TOLLHOUSE_BILLING_LEDGER": str(folder / "billing"),
        }
        command = [sys.executable, "-m", "tollhouse.billing"]
        super().__init__(command, settings, folder / "billing.log")

    def start(self, *, wait: bool = True) -> None:
        super().start()
        if not wait:
            return
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while "server.started" not in self.log:
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the aggregator did not start:\n{self.log}")
            time.sleep(0.02)


@pytest.fixture
def part_processes() -> Iterator[list[Part]]:
    """Parts that are killed when the test is over; add every one that is started."""
    parts: list[Part] = []
    yield parts
    for part in parts:
        if part.process is not None:
            part.process.kill()
            part.process.wait()


@pytest.fixture(scope="module")
def shared_aggregator(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[Aggregator]:
    """Gone with the module: it seals and ships whatever is in the run's Redis."""
    part = Aggregator(tmp_path_factory.mktemp("billing"), redis_server.url)
    yield part
    if part.process is not None:
        part.process.kill()
        part.process.wait()


@pytest.fixture
def aggregator(shared_aggregator: Aggregator, redis_url: str) -> Aggregator:
    """A running aggregator on the run's Redis; a test may kill it."""
    process = shared_aggregator.process
    if process is None or process.poll() is not None:
        shared_aggregator.start()
    return shared_aggregator


@pytest.fixture
def start_relay(
    tmp_path: Path, redis_url: str, aggregator: Aggregator, part_processes: list[Part]
) -> StartRelay:
    """Start a relay process of a name, impatient with what others hold."""

    def start(name: str, claim_idle_seconds: float = 0.5) -> Part:
        arguments = (redis_url, aggregator.target, name, str(claim_idle_seconds))
        command = [sys.executable, "-c", RELAY, *arguments]
        part = Part(command, {}, tmp_path / f"{name}.log")
        part_processes.append(part)
        part.start()
        return part

    return start


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """Our own client of the run's Redis."""
    client = await Redis.connect(redis_url, budget_seconds=2.0)
    yield client
    await client.close()


@pytest.fixture
def db(redis_url: str) -> Iterator[redis.Redis]:
    """A look from outside into the run's Redis."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def ingest(
    aggregator: Aggregator,
) -> AsyncIterator["usage_grpc.UsageIngestServiceAsyncStub"]:
    async with grpc.aio.insecure_channel(aggregator.target) as channel:
        yield usage_grpc.UsageIngestServiceStub(channel)


@pytest.fixture
async def query(
    aggregator: Aggregator,
) -> AsyncIterator["usage_grpc.UsageQueryServiceAsyncStub"]:
    async with grpc.aio.insecure_channel(aggregator.target) as channel:
        yield usage_grpc.UsageQueryServiceStub(channel)
