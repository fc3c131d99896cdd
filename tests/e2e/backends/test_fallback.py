"""Another model serves while nobody is healthy behind the one that was asked for."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.backends.conftest import PATHS
from tests.e2e.edge import services
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import KEY, start_envoy
from tests.e2e.running_stack import short_folder, wait_until
from tests.e2e.tls.envoy import PROOF
from tests.e2e.tls.recipes import recipe
from tests.openai_stand_in.server import StandIn, running_stand_in
from tests.redis_process import running_redis
from tollhouse.adapters.address import Address
from tollhouse.cli.bootstrap import Edge, render_bootstrap
from tollhouse.core.usage import decode_facts

_ENVOY = Path(__file__).parents[3] / "envoy"
_SEEN_SECONDS = 60.0
"""Two failed checks 2 s apart, extproc's look each second, and a busy machine."""
_MODEL = {
    "provider": "openai",
    "server": "vllm",
    "backend_model": "vllm",
    "operations": ["chat"],
    "context": 4096,
    "default_output_tokens": 20,
    "max_output_tokens": 1024,
}
MODELS = {
    "big": _MODEL | {"cluster": "first", "fallback": ["small"]},
    "small": _MODEL
    | {"cluster": "second", "max_output_tokens": 100, "weights": {"output": 2}},
}


@dataclass
class Rig:
    """An Envoy with its extproc before two backends, and how to ask."""

    url: str
    ledger: Path
    first: StandIn
    second: StandIn

    async def ask(self, **more: Any) -> httpx.Response:
        body = {"model": "big", "messages": [{"role": "user", "content": "hi"}]}
        async with httpx.AsyncClient(timeout=30) as client:
            return await client.post(
                self.url + PATHS["chat"],
                json=body | more,
                headers={"authorization": KEY},
            )

    async def until_served_by(self, model: str) -> httpx.Response:
        """Ask until that model serves; every answer on the way is one."""
        deadline = time.monotonic() + _SEEN_SECONDS
        while time.monotonic() < deadline:
            answer = await self.ask()
            assert answer.status_code == 200, answer.text
            if answer.headers["x-tollhouse-model"] == model:
                return answer
            await asyncio.sleep(0.1)
        raise AssertionError(f"{model} did not serve within {_SEEN_SECONDS} s")

    async def facts(self, exchange_id: str) -> Any:
        async with asyncio.timeout(30):
            while True:
                for line in self.ledger.read_text().splitlines():
                    entry = json.loads(line)
                    if entry["exchange"] == exchange_id:
                        return decode_facts(entry["facts"])
                await asyncio.sleep(0.02)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        first = stack.enter_context(running_stand_in())
        second = stack.enter_context(running_stand_in())
        redis = stack.enter_context(running_redis())
        authorization, _, stops = await services.serve(folder)
        authorization.scopes = "chat:write=big"  # and nothing on the other one
        edge = Edge(
            listen=Address(host="127.0.0.1", port=find_port()),
            admin=Address(host="127.0.0.1", port=find_port()),
            clusters={
                "authz": [Address(path=f"{folder}/authz.sock")],
                "extproc": [Address(path=f"{folder}/real.sock")],
                "tiny-chat": [Address(host="127.0.0.1", port=first.port)],
            },
            proof=PROOF,
            ledger=folder / "ledger.jsonl",
            meter=_ENVOY / "meter.lua",
        )
        (folder / "envoy.json").write_text(json.dumps(_bootstrap(edge, second.port)))
        processes = []
        try:
            processes.append(await _start_extproc(folder, edge, redis.url))
            await _until_started(folder / "extproc.log")
            processes.append(await start_envoy(folder))
            url = f"http://{edge.listen}/v1"
            await _until_ready(f"http://{edge.listen}/healthz")
            yield Rig(url, edge.ledger, first, second)
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            for stop in stops:
                await stop(0)


def _bootstrap(edge: Edge, second_port: int) -> Any:
    """The repository's file with two such clusters, by the recipe for health checks."""
    tree = json.loads(render_bootstrap(_ENVOY / "envoy.yaml", edge))
    clusters = tree["static_resources"]["clusters"]
    (pattern,) = [it for it in clusters if it["name"] == "tiny-chat"]
    (checks,) = recipe("A health check")
    for name in ("first", "second"):
        cluster = json.loads(json.dumps(pattern)) | checks | {"name": name}
        cluster["load_assignment"]["cluster_name"] = name
        if name == "second":
            (endpoint,) = _endpoints(cluster)
            endpoint["socket_address"]["port_value"] = second_port
        clusters.append(cluster)
    return tree


def _endpoints(cluster: Any) -> Iterator[Any]:
    for locality in cluster["load_assignment"]["endpoints"]:
        for endpoint in locality["lb_endpoints"]:
            yield endpoint["endpoint"]["address"]


async def _start_extproc(
    folder: Path, edge: Edge, redis_url: str
) -> asyncio.subprocess.Process:
    config = folder / "tollhouse.yaml"
    config.write_text(yaml.safe_dump({"models": MODELS, "plans": {"free": {}}}))
    proof = folder / "proof"
    proof.write_text(edge.proof)
    settings = {
        "LISTEN": f"unix:{folder}/real.sock",
        "REDIS_URL": redis_url,
        "CONFIG": config,
        "ADMISSION_PROOF_FILE": proof,
        "LEDGER": edge.ledger,
        "ENVOY_ADMIN": edge.admin,
        "BILLING_TARGET": f"unix:{folder}/nobody.sock",
    }
    with (folder / "extproc.log").open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tollhouse.extproc"),
            env=os.environ | {f"TOLLHOUSE_{k}": str(v) for k, v in settings.items()},
            stdout=output,
            stderr=output,
        )


async def _until_started(log: Path) -> None:
    def has_started() -> bool:
        return "server.started" in log.read_text()

    await asyncio.to_thread(wait_until, has_started, 60)
    assert has_started(), await asyncio.to_thread(log.read_text)


async def _until_ready(url: str) -> None:
    async with asyncio.timeout(60), httpx.AsyncClient() as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.05)


async def test_the_fallback_serves_while_the_other_is_down(rig):
    """Under the key's scope on the requested model; the record has both names."""
    answer = await rig.until_served_by("big")
    assert len(rig.first.received) == 1

    rig.first.is_healthy = False
    answer = await rig.until_served_by("small")
    seen = len(rig.first.received)
    answer = await rig.ask(max_tokens=100)
    assert answer.headers["x-tollhouse-model"] == "small"
    assert len(rig.first.received) == seen
    assert rig.second.received[-1].body["model"] == "vllm"
    facts = await rig.facts(answer.headers["x-tollhouse-exchange"])
    assert (facts.requested_model, facts.served_model) == ("big", "small")
    assert (facts.cluster, facts.weights) == ("second", (1, 0, 2))

    # More than the fallback gives: the requested one is asked, healthy or not.
    answer = await rig.ask(max_tokens=101)
    assert answer.headers["x-tollhouse-model"] == "big"

    rig.first.is_healthy = True
    await rig.until_served_by("big")


async def test_with_both_down_the_requested_one_is_asked(rig):
    """And its client learns from Envoy what comes of it."""
    await rig.until_served_by("big")
    rig.first.is_healthy = False
    await rig.until_served_by("small")
    rig.second.is_healthy = False
    await rig.until_served_by("big")
