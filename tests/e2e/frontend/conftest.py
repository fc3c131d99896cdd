"""One tritonserver and one frontend for all tests that break neither."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import httpx2
import openai
import pytest

from tests.e2e.frontend.stack import (
    NARROW,
    Deployment,
    Frontend,
    Triton,
    running_frontend,
    running_triton,
)
from tollhouse.cli.engine import EnginePorts


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@pytest.fixture(scope="session")
def engine_ports() -> Callable[[], EnginePorts]:
    """Return a function that finds three free ports for a tritonserver."""
    return lambda: EnginePorts(*_free_ports(3))


@pytest.fixture(scope="session")
def triton(
    tmp_path_factory: pytest.TempPathFactory, engine_ports: Callable[[], EnginePorts]
) -> Iterator[Triton]:
    """A tritonserver with one model per contract, and one with a single slot."""
    folder = tmp_path_factory.mktemp("triton")
    models = {
        "tiny-chat": Deployment(),
        "tiny-bls": Deployment(contract="tensorrt_llm_bls"),
        "tiny-llmapi": Deployment(contract="llmapi"),
        "narrow": Deployment(parameters=NARROW),
    }
    with running_triton(folder, engine_ports(), models) as server:
        yield server


@pytest.fixture(scope="session")
def frontend(
    tmp_path_factory: pytest.TempPathFactory, triton: Triton
) -> Iterator[Frontend]:
    """A frontend on a Unix socket that gives up silent engines after four seconds."""
    folder: Path = tmp_path_factory.mktemp("fe")
    with running_frontend(
        folder,
        triton,
        f"unix:{folder / 's'}",
        inter_token_timeout_seconds=4,
        first_token_timeout_seconds=20,
    ) as running:
        yield running


@pytest.fixture
async def client(frontend: Frontend) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the shared frontend, with connections of its own."""
    async with frontend.client() as connected:
        yield connected


@pytest.fixture
async def sdk(frontend: Frontend) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client as users make one, but for the Unix socket."""
    transport = httpx2.AsyncHTTPTransport(uds=frontend.socket)
    async with (
        httpx2.AsyncClient(transport=transport) as http,
        openai.AsyncOpenAI(
            base_url=f"{frontend.url}/v1", api_key="none", http_client=http
        ) as client,
    ):
        yield client
