"""A gRPC server of ours on TCP, with mTLS, and who calls it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.certificates import Authority, Pair
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.process import Process
from tollhouse.adapters.tls import TlsSettings, server_tls

SERVER = "authz.test"
CLIENT = "envoy.test"


@dataclass
class Served:
    """A running server whose methods remember that they were reached."""

    port: int
    reached: list[str] = field(default_factory=list)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add a method of each kind, generators and writers alike."""

        async def one(request: bytes, context: Any) -> bytes:
            self.reached.append("one")
            return request

        async def last(requests: Any, context: Any) -> bytes:
            self.reached.append("last")
            return b"".join([request async for request in requests])

        async def writes(request: bytes, context: Any) -> None:
            self.reached.append("writes")
            await context.write(request)

        async def echoes(requests: Any, context: Any) -> AsyncIterator[bytes]:
            self.reached.append("echoes")
            try:
                async for request in requests:
                    yield request
            finally:
                self.reached.append("closed")

        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "One": grpc.unary_unary_rpc_method_handler(one),
            "Last": grpc.stream_unary_rpc_method_handler(last),
            "Writes": grpc.unary_stream_rpc_method_handler(writes),
            "Echoes": grpc.stream_stream_rpc_method_handler(echoes),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Service", methods),)
        )

    def channel(
        self, trusted: Authority, pair: Pair | None, name: str = SERVER
    ) -> grpc.aio.Channel:
        """Connect as the owner of a certificate."""
        credentials = grpc.ssl_channel_credentials(
            trusted.file.read_bytes(),
            None if pair is None else pair.key.read_bytes(),
            None if pair is None else pair.certificate.read_bytes(),
        )
        return grpc.aio.secure_channel(
            f"127.0.0.1:{self.port}",
            credentials,
            options=(("grpc.ssl_target_name_override", name),),
        )

    async def ask(self, *who: Any, method: str = "One", **options: Any) -> bytes:
        """Call a method once on a connection of its own."""
        async with self.channel(*who, **options) as channel:
            unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
            unary = channel.unary_unary(f"/test.Service/{method}")
            return await unary(b"asked", timeout=30)

    async def health(self, *who: Any) -> int:
        """Ask for health."""
        async with self.channel(*who) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            return int(answer.status)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def client(authority: Authority) -> Pair:
    return authority.issue(CLIENT, into="client")


@contextlib.asynccontextmanager
async def running_server(
    port: int, authority: Authority, pair: Pair, names: str = CLIENT
) -> AsyncIterator[Served]:
    """Serve over mTLS until the block ends."""
    listen = f"127.0.0.1:{port}"
    settings = TlsSettings(
        tls_cert_file=pair.certificate,
        tls_key_file=pair.key,
        tls_client_ca_file=authority.file,
        tls_client_names=names,
    )
    process, served, ready = Process("test"), Served(port), asyncio.Event()

    async def listens() -> None:
        ready.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(
        serve(
            process,
            served.add_to,
            listen,
            tls=server_tls(listen, settings),
            background=[listens],
            grace_seconds=0.1,
        )
    )
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield served
    finally:
        process.stopping.set()
        waiting.cancel()
        await running


@pytest.fixture
async def served(
    authority: Authority, free_port: Callable[[], int]
) -> AsyncIterator[Served]:
    """A server that expects `envoy.test`; its files are in the folder `server`."""
    pair = authority.issue(SERVER, into="server")
    async with running_server(free_port(), authority, pair) as running:
        yield running
