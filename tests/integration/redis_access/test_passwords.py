"""Passwords: replaced without a restart, and never looking like an outage."""

import contextlib
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from tests.integration.redis_access.tls_redis import until
from tests.redis_process import running_redis, secret_file
from tollhouse.adapters.redis.access import AccessError, RedisAccess
from tollhouse.adapters.redis.blocking import open_blocking, translated
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.redis_py import asyncio_clients
from tollhouse.core.problems import Unavailable

WITH_ROOT = ("user root on nopass ~* &* +@all", "user default off")


@pytest.fixture
def server(tmp_path: Path):
    acl = secret_file(tmp_path, "\n".join(WITH_ROOT), "users.acl")
    with running_redis(options=("--aclfile", str(acl))) as server:
        yield server


@pytest.fixture
def root(server):
    """The test's own hand."""
    with redis.Redis(
        unix_socket_path=str(server.socket_path), username="root", password="any"
    ) as client:
        yield client


def give(root: redis.Redis, password: str) -> None:
    """Let `extproc` in with this password only."""
    root.execute_command(
        *("ACL", "SETUSER", "extproc", "reset", "on", f">{password}"),
        *("~{s1}:*", "+ping", "+get", "+evalsha", "+script|load"),
    )


def cut_off(root: redis.Redis) -> None:
    """End its connections."""
    root.execute_command("CLIENT", "KILL", "USER", "extproc")


async def test_rotation_without_a_restart(server, root, tmp_path):
    """The new password is in the file before the old one stops to count."""
    access = RedisAccess(server.url, "extproc", secret_file(tmp_path, "old"))
    give(root, "old")
    client = await Redis.connect(access, budget_seconds=2.0)
    subscriber = asyncio_clients(access)()
    blocking = open_blocking(access)
    with capture_logs() as logs:
        assert await subscriber.ping()
        assert blocking.ping()
        secret_file(tmp_path, "new")
        root.execute_command("ACL", "SETUSER", "extproc", "resetpass", ">new")
        assert client.connected, "a connection outlives its password"
        since = client.connected_since
        cut_off(root)
        await until(lambda: client.connected and client.connected_since != since)

        assert b"PONG" == await client.call("PING")
        assert await subscriber.ping()
        assert blocking.ping()
    assert [] == logs
    blocking.close()
    await subscriber.aclose()
    await client.close()


async def test_a_wrong_password_is_no_outage(server, root, tmp_path):
    """It is said once, without the password, and mended without a restart."""
    access = RedisAccess(server.url, "extproc", secret_file(tmp_path, "hunter2"))
    give(root, "other")
    with capture_logs() as logs:
        client = await Redis.connect(access, budget_seconds=2.0)
        await until(lambda: root.info("stats")["total_connections_received"] > 5)
        with pytest.raises(Unavailable, match="WRONGPASS") as caught:
            await client.call("PING")
        secret_file(tmp_path, "other")
        await until(lambda: client.connected)
        await client.close()

    assert not caught.value.transient
    assert [("redis.refused", "extproc"), ("redis.accepted", "extproc")] == [
        (it["event"], it["user"]) for it in logs
    ]
    assert "hunter2" not in str(logs)


async def test_what_a_user_may_not_is_said_once(server, root, tmp_path):
    """Of the commands; keys and arguments stay out of the log."""
    access = RedisAccess(server.url, "extproc", secret_file(tmp_path, "pass"))
    give(root, "pass")
    with capture_logs() as logs:
        client = await Redis.connect(access, budget_seconds=2.0)
        for _ in range(3):
            with pytest.raises(Unavailable, match="NOPERM") as caught:
                await client.call("SET", "{s1}:key", "hunter2")
            assert not caught.value.transient
            with pytest.raises(Unavailable, match="NOPERM"):
                await client.call("GET", "hunter2")
        await client.close()

    assert [("redis.refused", "error")] * 2 == [
        (it["event"], it["log_level"]) for it in logs
    ]
    assert "to set" in logs[0]["reason"]
    assert "hunter2" not in str(logs)


async def test_a_script_that_may_not_is_refused_as_its_caller(server, root, tmp_path):
    """Redis says ERR of it; to us it is what it is."""
    access = RedisAccess(server.url, "extproc", secret_file(tmp_path, "pass"))
    give(root, "pass")
    client = await Redis.connect(access, budget_seconds=2.0)
    for body in ("'DEL', KEYS[1]", "'GET', 'other'"):
        sha = await client.call("SCRIPT", "LOAD", f"return redis.call({body})")
        with pytest.raises(Unavailable, match="NOPERM"):
            await client.call("EVALSHA", sha, 1, "{s1}:key")
    await client.close()


async def test_a_file_that_goes_is_said(server, root, tmp_path):
    """A mount that failed, say: the next connection can't be made."""
    path = secret_file(tmp_path, "pass")
    give(root, "pass")
    access = RedisAccess(server.url, "extproc", path)
    with capture_logs() as logs:
        client = await Redis.connect(access, budget_seconds=2.0)
        path.unlink()
        cut_off(root)
        await until(lambda: not client.connected)
        await until(lambda: not client.trouble.transient)
        with translated(), contextlib.suppress(AccessError):
            open_blocking(access)
        secret_file(tmp_path, "pass")
        await until(lambda: client.connected)
        await client.close()

    assert ["redis.refused", "redis.accepted"] == [it["event"] for it in logs]
    assert "No such file" in logs[0]["reason"]


async def test_an_outage_is_none_of_this(server, root, tmp_path):
    access = RedisAccess(server.url, "extproc", secret_file(tmp_path, "pass"))
    give(root, "pass")
    with capture_logs() as logs:
        client = await Redis.connect(access)
        server.process.kill()
        await until(lambda: not client.connected)
        with pytest.raises(Unavailable) as caught:
            await client.call("PING")
        await client.close()

    assert caught.value.transient
    assert [] == logs


def test_redis_py_says_what_is_wrong(server, root, tmp_path):
    """The command line: refused, not away."""
    give(root, "other")
    path = secret_file(tmp_path, "hunter2")
    access = RedisAccess(server.url, "extproc", path)
    blocking = open_blocking(access)
    refused = pytest.raises(Unavailable, match=r"^Redis refused(?!.*hunter2)")
    with refused as caught, translated():
        blocking.ping()
    path.unlink()
    gone = pytest.raises(Unavailable, match=r"^Redis refused: .*No such file")
    with gone, translated():
        blocking.ping()
    blocking.close()

    assert not caught.value.transient


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0, "No such file"),
        (b" \n\t ", 0o600, "is empty"),
        (b"hunter2", 0o604, "everybody on this machine"),
        (b"hunter2", 0o602, "everybody on this machine"),
        (b"hunter2\xff", 0o600, "not UTF-8"),
    ],
    ids=["gone", "empty", "readable", "writable", "binary"],
)
async def test_unusable_files(tmp_path, content, mode, reason):
    """Whoever starts with one is told at once."""
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    access = RedisAccess("unix:///x", "extproc", path)

    for begin in (access.check, lambda: open_blocking(access)):
        with pytest.raises(AccessError, match=f"^(?!.*hunter2).*{reason}"):
            begin()
    with pytest.raises(AccessError, match=reason):
        await Redis.connect(access)


def test_white_space_is_not_part_of_a_password(tmp_path):
    (path := tmp_path / "password").touch(mode=0o640)
    path.write_bytes(b" \tpass word\r\n\n")

    assert ("u", "pass word") == RedisAccess("unix:///x", "u", path).credentials()
