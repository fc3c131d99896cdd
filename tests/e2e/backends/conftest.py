"""One stack before all stand-ins; a model for each server, named as its server is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.running_stack import (
    RunningStack,
    running_stack,
    short_folder,
    write_config,
)
from tests.openai_stand_in.server import StandIn, running_stand_in

PAUSE = 0.005
"""Between two events."""
KEY = "sk-of-the-gateway-itself"
ROOMY = {"requests_per_minute": 1_000_000, "units_per_minute": 1_000_000_000}
OPERATIONS: dict[str, list[str]] = {
    "vllm": ["chat", "completions", "embeddings", "responses", "messages"],
    "nim": ["chat", "completions", "embeddings", "responses", "messages"],
    "sglang": ["chat", "completions", "embeddings", "responses", "messages"],
    "other": ["chat", "completions", "embeddings", "responses", "messages"],
    "trtllm-serve": ["chat", "completions", "embeddings", "responses"],
    "triton-openai": ["chat", "completions", "embeddings"],
}
PATHS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
    "messages": "/messages",
}
PLANS = {"demo": {}, "roomy": {"tenant": ROOMY, "burst_seconds": 3600}}


def models() -> dict[str, Any]:
    """Models by the name `our-SERVER`; their servers call them otherwise."""
    return {
        f"our-{server}": {
            "cluster": "tiny-chat",
            "provider": "openai",
            "server": server,
            "backend_model": server,
            "operations": operations,
            "context": 4096,
            "default_output_tokens": 64,
            "max_output_tokens": 1024,
        }
        for server, operations in OPERATIONS.items()
    }


def question(server: str, operation: str, prompt: str = "hi", **more: Any) -> Any:
    """A request for a piece of text, or its embedding."""
    body: dict[str, Any] = {"model": f"our-{server}"}
    match operation:
        case "chat":
            body["messages"] = [{"role": "user", "content": prompt}]
        case "messages":
            body["messages"] = [{"role": "user", "content": prompt}]
            body["max_tokens"] = 20
        case "completions":
            body["prompt"] = prompt
        case _:
            body["input"] = prompt
    return body | more


@pytest.fixture(scope="package")
def key_file() -> Iterator[Path]:
    """The key that the stand-in asks for, in a folder of its own."""
    with short_folder() as folder:
        path = folder / "key"
        path.write_text(KEY + "\n")
        path.chmod(0o600)
        yield path


@pytest.fixture(scope="package")
def stand_in() -> Iterator[StandIn]:
    with running_stand_in(pause=PAUSE, key=KEY) as running:
        yield running


@pytest.fixture(scope="package")
def stack(stand_in, key_file) -> Iterator[RunningStack]:
    with short_folder() as folder:
        config = write_config(folder / "models.yaml", models=models(), plans=PLANS)
        options = ("--backend", stand_in.url, "--backend-key-file", str(key_file))
        with running_stack(folder, *options, config=config) as running:
            yield running


@pytest.fixture(scope="package")
def roomy_key(stack) -> str:
    """A key of the tenant `roomy`."""
    stack.run("tenants", "create", "roomy", "--plan", "roomy")
    created: str = stack.run("keys", "create", "--tenant", "roomy").strip()
    return created.splitlines()[-1]


class Client:
    """A client of the stack, on a plan with room for everything."""

    def __init__(self, stack: RunningStack, key: str) -> None:
        self.key = key
        self._http = httpx.Client(
            base_url=stack.base_url,
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
        )

    def ask(self, operation: str, body: Any) -> httpx.Response:
        return self._http.post(PATHS[operation], json=body)

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="package")
def client(stack, roomy_key) -> Iterator[Client]:
    made = Client(stack, roomy_key)
    yield made
    made.close()
