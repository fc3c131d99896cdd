"""gRPC servers on TCP: who may connect, and certificates that change."""

import socket
import ssl
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from tests.certificates import Authority, oldest_tls, replace
from tests.integration.tls.conftest import CLIENT, SERVER, Served, running_server
from tollhouse.adapters.process import StartError

SERVING = 1
STREAMS = ("One", "Last", "Writes", "Echoes")


async def refusal(asking: Any) -> grpc.StatusCode:
    """Return the status of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asking
    return raised.value.code()


def handshake(context: ssl.SSLContext, port: int) -> str | None:
    """Return the version agreed on."""
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        context.wrap_socket(raw) as connection,
    ):
        return connection.version()


async def test_the_expected_client_is_served(served, authority, client):
    assert await served.ask(authority, client) == b"asked"
    assert await served.health(authority, client) == SERVING


async def test_every_kind_of_method_works_behind_the_check(served, authority, client):
    """Also the two ways to stream, by a generator and by writing."""
    async with served.channel(authority, client) as channel:

        async def sent():
            yield b"a"
            yield b"b"

        assert await channel.stream_unary("/test.Service/Last")(sent()) == b"ab"
        written = channel.unary_stream("/test.Service/Writes")(b"x")
        assert [it async for it in written] == [b"x"]
        echoed = channel.stream_stream("/test.Service/Echoes")(sent())
        assert [it async for it in echoed] == [b"a", b"b"]
        missing = channel.unary_unary("/test.Service/Nothing")(b"")
        assert await refusal(missing) is grpc.StatusCode.UNIMPLEMENTED
    assert served.reached == ["last", "writes", "echoes", "closed"]


@pytest.mark.parametrize(
    "names",
    [
        ("intruder.test",),
        ("xenvoy.test", "envoy.test.evil", "ENVOY.test"),
        ("*.test",),
        (f"{CLIENT}@mail.test", "10.0.0.1"),
        (f"https://{CLIENT}",),
        (),
    ],
)
async def test_a_good_certificate_in_another_name_is_refused(
    served, authority, names
) -> None:
    """Names match to the letter; no method runs, health included; told once."""
    stranger = authority.issue(*names, into="stranger")
    with capture_logs() as logs:
        for method in STREAMS:
            asking = served.ask(authority, stranger, method=method)
            assert await refusal(asking) is grpc.StatusCode.PERMISSION_DENIED
        asking = served.health(authority, stranger)
        assert await refusal(asking) is grpc.StatusCode.PERMISSION_DENIED

    assert served.reached == []
    told = [it for it in logs if it["event"] == "client.refused"]
    assert [it["expected"] for it in told] == [[CLIENT]]


async def test_the_subject_is_no_name(served, authority, tmp_path):
    """A certificate with the right common name and no such alternative name."""
    other = Authority(tmp_path / "other")
    impostor = authority.issue("intruder.test", common_name=CLIENT)
    assert await refusal(served.ask(authority, impostor)) is (
        grpc.StatusCode.PERMISSION_DENIED
    )
    strange = other.issue(CLIENT)
    assert await refusal(served.ask(authority, strange)) is grpc.StatusCode.UNAVAILABLE
    assert served.reached == []


async def test_without_a_good_certificate_there_is_no_connection(
    served, authority, tmp_path
):
    """None, an expired one, one of a server: refused in the handshake."""
    for pair in (
        None,
        authority.issue(CLIENT, into="late", days=-1),
        authority.issue(CLIENT, into="early", days=2, began_days_ago=-1),
        authority.issue(CLIENT, into="of-a-server", client=False),
    ):
        asking = served.ask(authority, pair)
        assert await refusal(asking) is grpc.StatusCode.UNAVAILABLE
    assert served.reached == []


async def test_names_may_be_several_and_uris(authority, free_port):
    pair = authority.issue(SERVER, into="server")
    names = "a.test , spiffe://fleet.test/ns/edge/sa/envoy"
    async with running_server(free_port(), authority, pair, names) as served:
        for name in ("a.test", "spiffe://fleet.test/ns/edge/sa/envoy"):
            one = authority.issue("x.test", name, into="one")
            assert await served.ask(authority, one) == b"asked"
        near = authority.issue("spiffe://fleet.test/ns/edge/sa/envoy2", into="one")
        assert await refusal(served.ask(authority, near)) is (
            grpc.StatusCode.PERMISSION_DENIED
        )


async def test_a_port_in_use_is_told(authority):
    """One clear line."""
    pair = authority.issue(SERVER)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match="the port is in use"):
            async with running_server(port, authority, pair):
                pass


async def test_plaintext_and_old_tls_are_refused(served: Served, client):
    """Nothing below TLS 1.2."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        unary = channel.unary_unary("/test.Service/One")
        assert await refusal(unary(b"", timeout=30)) is grpc.StatusCode.UNAVAILABLE
    context = oldest_tls()
    context.load_cert_chain(client.certificate, client.key)
    with pytest.raises(ssl.SSLError):
        handshake(context, served.port)
    context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(context, served.port) == "TLSv1.2"
    assert served.reached == []


async def test_replaced_files_count_from_the_next_connection(
    served, authority, client, tmp_path
):
    """Server's certificate and clients' authority change, the process stays."""
    async with served.channel(authority, client) as running:
        ask = running.unary_unary("/test.Service/One")
        assert await ask(b"before") == b"before"

        new = Authority(tmp_path / "new")
        renewed = new.issue("renewed.test", into="server")
        old_ca = authority.file.read_bytes()
        replace(authority.file, old_ca + new.file.read_bytes())
        server = authority.file.parent / "server"
        replace(server / "tls.key", renewed.key.read_bytes(), mode=0o600)
        replace(server / "tls.crt", renewed.certificate.read_bytes())

        assert await served.ask(new, client, name="renewed.test") == b"asked"
        theirs = new.issue(CLIENT)
        assert await served.ask(new, theirs, name="renewed.test") == b"asked"
        assert await ask(b"after") == b"after"

    replace(authority.file, new.file.read_bytes())
    assert await served.ask(new, theirs, name="renewed.test") == b"asked"
    asking = served.ask(new, client, name="renewed.test")
    assert await refusal(asking) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("broken", ["half", "missing", "not PEM", "open key"])
async def test_broken_files_leave_the_last_good_ones(served, authority, client, broken):
    """Told once, and good ones are taken up again."""
    server = authority.file.parent / "server"
    certificate, key = server / "tls.crt", server / "tls.key"
    match broken:
        case "half":  # the new certificate is there, its key not yet
            new = authority.issue(SERVER, into="half")
            replace(certificate, new.certificate.read_bytes())
        case "missing":
            key.unlink()
        case "not PEM":
            replace(certificate, b"nonsense")
        case "open key":
            key.chmod(0o644)
            replace(key, key.read_bytes(), mode=0o644)
    with capture_logs() as logs:
        for _ in range(3):
            assert await served.ask(authority, client) == b"asked"
    told = [it for it in logs if it["event"] == "tls.refused"]
    assert len(told) == 1
    assert all(it.startswith("TOLLHOUSE_TLS_") for it in told[0]["faults"])
    assert "PRIVATE KEY-----\n" not in str(told)

    authority.issue("renewed.test", into="server")
    assert await served.ask(authority, client, name="renewed.test") == b"asked"
