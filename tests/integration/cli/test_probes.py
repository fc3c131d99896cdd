"""A probe says yes to a part that serves, and never to one that merely listens."""

import asyncio
import socket

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.redis_process import running_redis
from tollhouse.adapters.address import Address
from tollhouse.adapters.http_client import http_request
from tollhouse.cli.probes import grpc_serves, http_answers, redis_answers


@pytest.fixture
async def health_server(tmp_path):
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    path = tmp_path / "health.sock"
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    yield Address(path=str(path)), servicer
    await server.stop(0)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (health_pb2.HealthCheckResponse.SERVING, True),
        (health_pb2.HealthCheckResponse.NOT_SERVING, False),
        (health_pb2.HealthCheckResponse.UNKNOWN, False),
    ],
)
async def test_grpc_health_decides(health_server, status, expected):
    """A part that drains still listens; it is not ready."""
    address, servicer = health_server
    await servicer.set("", status)

    assert expected == await grpc_serves(address)


async def test_a_grpc_server_without_health_is_not_ready(tmp_path):
    """UNIMPLEMENTED is no yes."""
    server = grpc.aio.server()
    server.add_insecure_port(f"unix:{tmp_path / 's.sock'}")
    await server.start()
    try:
        assert not await grpc_serves(Address(path=str(tmp_path / "s.sock")))
    finally:
        await server.stop(0)


async def test_nobody_listens(tmp_path):
    """What the supervisor takes for not yet."""
    nowhere = Address(path=str(tmp_path / "none.sock"))
    for probe in (grpc_serves, redis_answers):
        with pytest.raises(OSError, match="No such file"):
            await probe(nowhere)


@pytest.fixture
async def speaks(tmp_path):
    """Return a function that starts a server which says one thing and hangs up."""
    servers: list[asyncio.Server] = []

    async def start(answer: bytes) -> Address:
        async def reply(reader, writer):
            await reader.readuntil(b"\n")
            writer.write(answer)
            writer.close()

        path = str(tmp_path / f"{len(servers)}.sock")
        servers.append(await asyncio.start_unix_server(reply, path))
        return Address(path=path)

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
    ],
)
async def test_http_answers_with_200(speaks, answer, expected):
    """Envoy's /ready says 503 while it starts."""
    assert expected == await http_answers(await speaks(answer), "/ready")


async def test_what_is_no_http_is_an_os_error(speaks):
    """The supervisor's word for not yet."""
    for garbage in (b"", b"SSH-2.0\r\n"):
        with pytest.raises(OSError, match="does not speak HTTP"):
            await http_request(await speaks(garbage), "/")


async def test_redis_is_ready_when_it_has_loaded(speaks):
    """It listens before: -LOADING is not ready."""
    with running_redis() as server:
        assert await redis_answers(Address(path=str(server.socket_path)))
    assert not await redis_answers(await speaks(b"-LOADING Redis is loading\r\n"))
    with pytest.raises(OSError, match="closed the connection"):
        await redis_answers(await speaks(b"+PO"))


async def test_a_probe_gives_up_on_a_part_that_hangs(tmp_path):
    """Or one hanging answer would hold the start for ever."""
    path = str(tmp_path / "hang.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(1)
        with pytest.raises(TimeoutError):
            await http_answers(Address(path=path), "/ready")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/a.sock", Address(path="/run/a.sock")),
        ("127.0.0.1:0", Address(host="127.0.0.1", port=0)),
        ("[::1]:8443", Address(host="::1", port=8443)),
        ("gpu-1.example.test:80", Address(host="gpu-1.example.test", port=80)),
    ],
)
def test_addresses_read_as_they_are_written(text, address):
    """What `--listen` takes is what we print."""
    assert address == Address.parse(text)
    assert text == str(address)


@pytest.mark.parametrize(
    "text", ["", "host", ":80", "host:", "host:x", "host:-1", "h:٣"]
)
def test_what_is_no_address_is_refused(text):
    """Not turned into a port nobody meant."""
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        Address.parse(text)
