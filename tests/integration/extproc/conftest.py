"""extproc's parts on a real Redis, spoken to as Envoy speaks."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from tollhouse.adapters.live import Live
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def live() -> Live:
    """The repository's own models and plans."""
    return Live(ROOT / "tollhouse.yaml")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the test's Redis."""
    client = await Redis.connect(redis_url, budget_seconds=1.0)
    yield client
    await client.close()


@pytest.fixture
def limiter(redis: Redis) -> Limiter:
    return Limiter(redis)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    """A gRPC server that is not started yet, and its address."""
    made = grpc.aio.server()
    address = f"unix:{tmp_path}/e.sock"
    made.add_insecure_port(address)
    yield made, address
    await made.stop(None)
