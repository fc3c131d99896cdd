"""What the attacks meet: real Envoys before the real services and a real Redis."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.attacks import words
from tests.e2e.edge.backend import Backend, answer
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import start_envoy
from tests.integration.identity.authz_process import environment
from tests.redis_process import running_redis
from tollhouse.adapters.address import Address
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.cli.bootstrap import Edge, render_bootstrap

_ENVOY = Path(__file__).parents[3] / "envoy"
_PROOF = "pR00f-" + "aZ09_-xY" * 5
_START_SECONDS = 60.0
_MAIN = "main"
"""The gateway whose ledger extproc reads."""
_COMPLETION = json.dumps(
    {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
_CONFIG = """\
models:
  tiny-chat: &model
    cluster: tiny-chat
    provider: triton
    operations: [chat, completions, responses, messages, infer]
    triton: {grpc: tiny-chat-grpc, http: tiny-chat-http}
    context: 4096
    default_output_tokens: 256
    max_output_tokens: 4096
    weights: {input: 1, cached_input: 0, output: 5}
    prices: {input: 0.10, cached_input: 0.05, output: 0.40}
    bytes_per_token: 2.5
  pictures:
    <<: *model
    provider: openai
    operations: [chat, completions, responses, messages]
  vectors: {<<: *model, provider: openai, operations: [embeddings]}
  private: *model
plans:
  demo: {}
"""

Tree = Any
"""A bootstrap as JSON."""
Change = Callable[[Tree], None]
"""Changes one in place."""


def _hurry(tree: Tree) -> None:
    edge = manager(tree)
    edge["common_http_protocol_options"]["max_stream_duration"] = "0.5s"
    keepalive = {"interval": "0.3s", "timeout": "0.3s"}
    edge["http2_protocol_options"]["connection_keepalive"] = keepalive


def _hurry_headers(tree: Tree) -> None:
    manager(tree)["request_headers_timeout"] = "0.5s"


_HURRIED = {"hurried": _hurry, "hurried-headers": _hurry_headers}
"""Shorter waits, to be seen running out, by variant."""
_PORTS = (64_001, 64_002, 64_003)
"""Names of an Envoy's own, its admin's and its backend's."""
_LEDGER = "/the-ledger-of-this-gateway"
VARIANTS = ("main", *_HURRIED, "no-authz", "no-extproc")


@dataclasses.dataclass
class Gateway:
    """One Envoy, and what comes out behind it."""

    port: int
    admin: int
    folder: Path
    backend: Backend
    rig: "Rig"

    def filled(self, text: bytes) -> bytes:
        """Put this gateway's own values where the rows have placeholders."""
        for placeholder, value in self.rig.secrets.items():
            text = text.replace(placeholder, value)
        return text.replace(words.ADMIN_PORT, b"%05d" % self.admin)


@dataclasses.dataclass
class Rig:
    """Redis and the services, for as many Envoys as are wanted."""

    folder: Path
    secrets: dict[bytes, bytes] = dataclasses.field(repr=False)
    """By placeholder."""

    @contextlib.asynccontextmanager
    async def gateway(
        self, name: str, change: Change | None = None, variant: str = ""
    ) -> AsyncIterator[Gateway]:
        """Run an Envoy with the repository's envoy.yaml, changed in one place.

        Variants that are hurried wait less; `no-authz` and `no-extproc` lack that
        service.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        backend = Backend(usual=answer(_COMPLETION))
        await backend.start()
        gateway = Gateway(find_port(), find_port(), folder, backend, self)
        tree = self._bootstrap(gateway, variant)
        if change is not None:
            change(tree)
        (folder / "envoy.json").write_text(json.dumps(tree))
        process = await start_envoy(folder)
        try:
            await _until_ready(gateway, process)
            yield gateway
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await backend.stop()

    def bootstrap(self) -> Tree:
        """What all Envoys run with, but for their ports."""
        return json.loads(_rendered(self.folder, ""))

    def _bootstrap(self, gateway: Gateway, variant: str) -> Tree:
        text = _rendered(self.folder, variant)
        ports = (gateway.port, gateway.admin, gateway.backend.port)
        for name, port in zip(_PORTS, ports, strict=True):
            text = text.replace(str(name), str(port))
        return json.loads(text.replace(_LEDGER, str(gateway.folder / "ledger.jsonl")))


@functools.cache
def _rendered(folder: Path, variant: str) -> str:
    """With names for what is each Envoy's own: it takes most of a second."""

    def socket(name: str) -> list[Address]:
        known = variant != f"no-{name}"
        return [Address(path=f"{folder}/{name if known else 'nobody'}.sock")]

    listen, admin, backend = (Address(host="127.0.0.1", port=it) for it in _PORTS)
    edge = Edge(
        listen=listen,
        admin=admin,
        clusters={
            "authz": socket("authz"),
            "extproc": socket("extproc"),
            # It speaks HTTP/1.1: what comes in HTTP/2 was let through all the same.
            **{
                it: [backend]
                for it in ("tiny-chat", "tiny-chat-grpc", "tiny-chat-http")
            },
        },
        proof=_PROOF,
        ledger=Path(_LEDGER),
        meter=_ENVOY / "meter.lua",
    )
    tree = json.loads(render_bootstrap(_ENVOY / "envoy.yaml", edge))
    # Else Envoy waits a second for the client to close first.
    manager(tree)["delayed_close_timeout"] = "0.05s"
    _be_patient(tree)
    if variant in _HURRIED:
        _HURRIED[variant](tree)
    return json.dumps(tree)


def _be_patient(tree: Tree) -> None:
    """A machine that stands still for a moment is no attack's answer."""
    filters = [it["typed_config"] for it in manager(tree)["http_filters"]]
    (authz,) = (it for it in filters if it["@type"].endswith(".ExtAuthz"))
    authz["grpc_service"]["timeout"] = "6s"
    extproc = next(it for it in filters if it["@type"].endswith(".ExternalProcessor"))
    extproc["message_timeout"] = "6s"


def manager(tree: Tree) -> Tree:
    """The connection manager of a bootstrap."""
    (listener,) = tree["static_resources"]["listeners"]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


@contextlib.asynccontextmanager
async def running_rig(folder: Path) -> AsyncIterator[Rig]:
    """Run Redis, authz and extproc; the first gateway, `main`, has the ledger read."""
    pepper = folder / "pepper"
    pepper.touch(mode=0o600)
    pepper.write_text("5a" * 32 + "\n")
    (folder / "proof").write_text(_PROOF)
    (folder / "tollhouse.yaml").write_text(_CONFIG)
    (folder / _MAIN).mkdir()
    with running_redis() as server:
        secrets = {words.PROOF: _PROOF.encode(), **_keys(server.url, pepper)}
        authz = environment(folder, server.url, pepper)
        extproc = _extproc_environment(folder, server.url)
        async with (
            _service(folder, "authz", authz),
            _service(folder, "extproc", extproc),
        ):
            yield Rig(folder, secrets)


def _keys(redis_url: str, pepper: Path) -> dict[bytes, bytes]:
    ring = Keyring(redis_url, Pepper.read(pepper))
    try:
        for tenant in ("acme", "gone"):
            ring.create_tenant(tenant, "demo")
        scopes = (
            "chat:write=tiny-* chat:write=pictures completions:write=tiny-* "
            "embeddings:write=vectors infer:write=tiny-* models:read"
        )
        good, _ = ring.create_key("acme", scopes=scopes)
        narrow, _ = ring.create_key("acme", scopes="chat:write=tiny-chat")
        bound, _ = ring.create_key("acme", networks=["203.0.113.0/24"])
        revoked, record = ring.create_key("acme")
        ring.revoke(record.key_id)
        reader, _ = ring.create_key("acme", scopes="models:read")
    finally:
        ring.close()
    past = Keyring(redis_url, Pepper.read(pepper), clock=lambda: 0.0)
    try:
        expired, _ = past.create_key("acme", expires_at=1.0)
    finally:
        past.close()
    keys = (good, narrow, bound, revoked, expired, reader)
    return dict(zip(words.KEYS, (key.encode() for key in keys), strict=True))


def _extproc_environment(folder: Path, redis_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TOLLHOUSE_LISTEN": f"unix:{folder}/extproc.sock",
        "TOLLHOUSE_REDIS_URL": redis_url,
        "TOLLHOUSE_CONFIG": str(folder / "tollhouse.yaml"),
        "TOLLHOUSE_ADMISSION_PROOF_FILE": str(folder / "proof"),
        "TOLLHOUSE_LEDGER": str(folder / _MAIN / "ledger.jsonl"),
        "TOLLHOUSE_BILLING_TARGET": f"unix:{folder}/nobody.sock",
        "TOLLHOUSE_LOG_LEVEL": "debug",
    }


@contextlib.asynccontextmanager
async def _service(
    folder: Path, name: str, settings: Mapping[str, str]
) -> AsyncIterator[None]:
    """Run one of ours until the block ends; it logs to a file of its name."""
    with (folder / f"{name}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"tollhouse.{name}"),
            env=dict(settings),
            stdout=log,
            stderr=log,
        )
    try:
        served = asyncio.create_task(_until_served(folder / f"{name}.sock"))
        ended = asyncio.create_task(process.wait())
        await asyncio.wait((served, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not served.done() or served.exception() is not None:
            served.cancel()
            said = (folder / f"{name}.log").read_text()
            raise AssertionError(f"{name} did not start:\n{said}")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _until_served(path: Path) -> None:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        await health.Check(request, timeout=_START_SECONDS, wait_for_ready=True)


async def _until_ready(gateway: Gateway, process: asyncio.subprocess.Process) -> None:
    """By its admin: what a row finds missing may be the way to /healthz."""
    async with asyncio.timeout(_START_SECONDS), httpx.AsyncClient() as client:
        while process.returncode is None:
            with contextlib.suppress(httpx.TransportError):
                ready = f"http://127.0.0.1:{gateway.admin}/ready"
                if (await client.get(ready)).status_code == 200:
                    return
            await asyncio.sleep(0.02)
    raise AssertionError((gateway.folder / "envoy.log").read_text())
