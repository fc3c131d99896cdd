"""TLS to Redis: a server that can't prove to be ours gets no password."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from structlog.testing import capture_logs

from tests.certificates import Authority
from tests.integration.redis_access.tls_redis import (
    running_tls_redis,
    take_anew,
    until,
)
from tollhouse.adapters import certificates
from tollhouse.adapters.redis.access import AccessError, RedisAccess
from tollhouse.adapters.redis.blocking import open_blocking, translated
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.redis_py import asyncio_clients
from tollhouse.adapters.redis.vitals import VitalsWatch
from tollhouse.core.problems import Unavailable

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Counting(RedisAccess):
    """Counts the attempts to connect."""

    attempts = 0

    def tls(self) -> ssl.SSLContext | None:
        """Count, and do as ever."""
        type(self).attempts += 1
        return RedisAccess.tls(self)


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on an event loop of each kind."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


async def greeted(access: RedisAccess) -> bytes:
    redis = await Redis.connect(access, budget_seconds=5.0)
    try:
        await until(lambda: redis.connected)
        return await redis.call("PING")
    finally:
        await redis.close()


async def refused(access: RedisAccess, attempts: int = 3) -> tuple[Unavailable, list]:
    """What a call meets, and what the log says, after some attempts to connect."""
    Counting.attempts = 0
    with capture_logs() as logs:
        redis = await Redis.connect(access)
        try:
            await until(lambda: Counting.attempts > attempts)
            await until(lambda: not redis.trouble.transient)
            with pytest.raises(Unavailable) as caught:
                await redis.call("PING")
            assert not redis.connected
        finally:
            await redis.close()
    return caught.value, logs


def test_a_server_that_proves_who_it_is(run, authority, free_port):
    pair = authority.issue("localhost")
    with running_tls_redis(free_port, pair) as (_, port):
        access = RedisAccess(f"rediss://localhost:{port}/0", ca_file=authority.file)

        assert b"PONG" == run(greeted(access))


def test_when_its_certificate_ends_is_known(run, authority, free_port):
    """By what it shows: the file is on another machine."""

    async def ends(access: RedisAccess) -> float | None:
        redis = await Redis.connect(access, budget_seconds=5.0)
        await until(lambda: redis.connected)
        (node,) = redis.nodes
        await redis.close()
        return node.certificate_ends

    pair = authority.issue("localhost", days=3)
    with running_tls_redis(free_port, pair) as (_, port):
        access = RedisAccess(f"rediss://localhost:{port}/0", ca_file=authority.file)
        seen = run(ends(access))

    (at,) = certificates.ends(pair.certificate)
    assert at.timestamp() == seen


def test_a_renewed_certificate_is_seen_on_a_connection_that_stays(
    run, authority, free_port
):
    """It lives for months: an alarm would ring for what nobody shows any more."""

    async def seen(port: int, renew: Callable[[], None]) -> list[float | None]:
        access = RedisAccess(f"rediss://localhost:{port}/0", ca_file=authority.file)
        redis = await Redis.connect(access, budget_seconds=5.0)
        await until(lambda: redis.connected)
        since, watch = redis.connected_since, VitalsWatch(redis)
        ends = []
        for do in (lambda: None, renew):
            do()
            await watch.see_certificates()
            await watch.look()
            ends += [it.certificate_ends for it in watch.latest]
        assert since == redis.connected_since
        await redis.close()
        return ends

    def renew() -> None:
        authority.issue("localhost", days=90)  # into the same files
        take_anew(server, pair)

    pair = authority.issue("localhost", days=3)
    (before,) = certificates.ends(pair.certificate)
    with running_tls_redis(free_port, pair) as (server, port):
        ends = run(seen(port, renew))

    (after,) = certificates.ends(pair.certificate)
    assert [before.timestamp(), after.timestamp()] == ends


def test_addresses_count_as_names(run, authority, free_port):
    pair = authority.issue("127.0.0.1")
    with running_tls_redis(free_port, pair) as (_, port):
        access = RedisAccess(f"rediss://127.0.0.1:{port}", ca_file=authority.file)

        assert b"PONG" == run(greeted(access))


@pytest.mark.parametrize(
    "about",  # names, days until it ends, who signed it, what the log says
    [
        (["localhost"], 1, "another", "self-signed certificate|unable to get"),
        (["elsewhere.example"], 1, "ours", "Hostname mismatch"),
        (["127.0.0.1"], 1, "ours", "Hostname mismatch"),
        ([], 1, "ours", "Hostname mismatch"),
        (["localhost"], -1, "ours", "certificate has expired"),
        # Whom the system trusts, where no authority is named.
        (["localhost"], 1, "nobody known", "self-signed certificate|unable to get"),
    ],
)
def test_a_server_that_does_not(run, tmp_path, free_port, about):
    """It hears nothing of us; the log says so once, however often we try."""
    names, days, signed_by, reason = about
    authorities = {it: Authority(tmp_path / it) for it in ("ours", "another")}
    signer = authorities["another" if signed_by == "another" else "ours"]
    ca_file = None if signed_by == "nobody known" else authorities["ours"].file
    with running_tls_redis(free_port, signer.issue(*names, days=days)) as (_, port):
        error, logs = run(
            refused(Counting(f"rediss://localhost:{port}", ca_file=ca_file))
        )

    assert not error.transient
    assert [("redis.refused", f"localhost:{port}", "error")] == [
        (it["event"], it["server"], it["log_level"]) for it in logs
    ]
    assert str(error) == logs[0]["reason"]
    assert re.search(reason, logs[0]["reason"])


def test_the_right_authority_mends_it(run, authority, tmp_path, free_port):
    """Files are read at each connect: nobody has to restart."""
    ca_file = tmp_path / "trusted.pem"
    ca_file.write_bytes(Authority(tmp_path / "other").file.read_bytes())

    async def mend(port: int) -> None:
        access = Counting(f"rediss://localhost:{port}", ca_file=ca_file)
        redis = await Redis.connect(access, budget_seconds=5.0)
        Counting.attempts = 0
        await until(lambda: Counting.attempts > 2)
        ca_file.write_bytes(authority.file.read_bytes())
        await until(lambda: redis.connected)
        assert b"PONG" == await redis.call("PING")
        await redis.close()

    pair = authority.issue("localhost")
    with running_tls_redis(free_port, pair) as (_, port), capture_logs() as logs:
        run(mend(port))

    assert ["redis.refused", "redis.accepted"] == [it["event"] for it in logs]


def test_a_server_that_wants_to_know_us(run, authority, tmp_path, free_port):
    clients = Authority(tmp_path / "clients", "clients")
    mine = clients.issue("extproc")
    pair = authority.issue("localhost")
    with running_tls_redis(free_port, pair, clients_of=clients.file) as (_, port):
        url = f"rediss://localhost:{port}"
        shown = RedisAccess(
            url, ca_file=authority.file, cert_file=mine.certificate, key_file=mine.key
        )
        error, logs = run(refused(Counting(url, ca_file=authority.file)))

        assert b"PONG" == run(greeted(shown))
    assert not error.transient
    assert ["redis.refused"] == [it["event"] for it in logs]
    assert "certificate" in logs[0]["reason"].lower()


@pytest.mark.parametrize(
    "about",  # the host, who signed, whether we trust that
    [("localhost", 0, True), ("localhost", 1, False), ("127.0.0.1", 0, False)],
)
def test_redis_py_is_as_careful(run, tmp_path, free_port, about):
    """The command line, and whoever listens to a channel."""
    host, signer, is_trusted = about
    authorities = [Authority(tmp_path / it) for it in ("ours", "another")]
    expected = (
        contextlib.nullcontext()
        if is_trusted
        else pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED")
    )
    pair = authorities[signer].issue("localhost")
    with running_tls_redis(free_port, pair) as (_, port):
        access = RedisAccess(f"rediss://{host}:{port}/0", ca_file=authorities[0].file)

        async def subscribe() -> None:
            client = asyncio_clients(access)()
            async with client, client.pubsub() as pubsub:
                await pubsub.subscribe("channel")

        with contextlib.closing(open_blocking(access)) as blocking:
            with expected, translated():
                assert blocking.ping()
            with expected, translated():
                run(subscribe())


def test_every_node_of_a_cluster(run, authority, free_port):
    """Those that only the map names are as well checked as those we were given."""
    pair = authority.issue("127.0.0.1", "localhost")
    announced = free_port()
    options = [
        *("--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"),
        *("--cluster-announce-port", str(announced)),
        *("--cluster-announce-tls-port", str(announced)),
    ]

    async def ask(url: str) -> bytes:
        access = RedisAccess(url, ca_file=authority.file)
        redis = await Redis.connect(access, budget_seconds=5.0)
        await until(lambda: redis.connected)
        await redis.call("SET", "key", "value")
        try:
            return await redis.call("GET", "key")
        finally:
            await redis.close()

    with running_tls_redis(lambda: announced, pair, options=options) as (server, port):
        server.ask("CLUSTER", "ADDSLOTS", *range(16384))
        run(until(lambda: b"cluster_state:ok" in server.ask("CLUSTER", "INFO")))

        assert b"value" == run(ask(f"rediss+cluster://localhost:{port}"))


def test_never_before_tls_1_2(authority):
    context = RedisAccess("rediss://localhost", ca_file=authority.file).tls()

    assert context is not None
    assert (ssl.TLSVersion.TLSv1_2, ssl.CERT_REQUIRED, True) == (
        context.minimum_version,
        context.verify_mode,
        context.check_hostname,
    )


@pytest.mark.parametrize(
    ("url", "options", "reason"),
    [
        ("http://x", {}, "starts with"),
        ("rediss://u:hunter2@x", {}, "must not hold a password"),
        ("rediss://hunter2@x", {}, "must not hold a user"),
        ("redis://x", {"ca_file": "ca"}, "has to start with rediss://"),
        ("unix:///x", {"cert_file": "a", "key_file": "b"}, "has to start with rediss"),
        ("redis+cluster://x", {"ca_file": "ca"}, "rediss\\+cluster://"),
        ("rediss://x", {"cert_file": "a"}, "two files"),
        ("rediss://x", {"key_file": "b"}, "two files"),
        ("redis://x", {"username": "extproc"}, "needs a password file"),
    ],
)
def test_what_does_not_fit_together(url, options, reason):
    with pytest.raises(AccessError, match=f"^(?!.*hunter2).*{reason}"):
        RedisAccess(url, **options)


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0, "No such file"),
        (b"no PEM", 0o600, "certificate file .*ca.pem: (no|NO)"),
    ],
)
def test_unusable_authorities(tmp_path, content, mode, reason):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(AccessError, match=reason):
        RedisAccess("rediss://x", ca_file=path).check()


def test_a_key_everybody_can_read_is_none(authority):
    pair = authority.issue("extproc")
    pair.key.chmod(0o644)
    access = RedisAccess(
        "rediss://x",
        ca_file=authority.file,
        cert_file=pair.certificate,
        key_file=pair.key,
    )

    with pytest.raises(AccessError, match="chmod o="):
        access.check()
