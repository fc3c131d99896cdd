"""The command line is somebody too: the operator, or whom its options name."""

import contextlib
import socket
from pathlib import Path

import pytest

from tests.redis_process import secret_file
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.blocking import translated
from tollhouse.adapters.redis.redis_py import blocking_client
from tollhouse.cli.__main__ import main
from tollhouse.cli.redis_users import OPERATOR
from tollhouse.core.problems import Unavailable


@pytest.fixture
def run(capsys):
    """Run a command; its status, and what it said."""

    def run_(*arguments: str | Path) -> tuple[int, str]:
        try:
            status = main([str(it) for it in arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run_


@pytest.fixture
def named(guarded):
    """The options that name a Redis and who to be there."""

    def named_(user: str, prefix: str = "--redis") -> list[str]:
        password = guarded.users.password_file(user)
        return [
            *(f"{prefix}-url", guarded.server.url, f"{prefix}-user", user),
            *(f"{prefix}-password-file", str(password)),
        ]

    return named_


def test_a_state_directory_makes_it_the_operator(run, guarded, tmp_path):
    (tmp_path / "run").symlink_to(guarded.server.socket_path.parent)
    place = ("--state-dir", tmp_path)
    (tmp_path / "redis-users").symlink_to(guarded.users.folder)

    for command in (
        ("tenants", "list"),
        ("keys", "list"),
        ("billing", "customers", "list"),
        ("billing", "parked", "records"),
    ):
        status, said = run(*command, *place)
        assert 0 == status, said


def test_a_redis_that_hangs_is_asked_once(tmp_path):
    """Four times three seconds are a long time before a terminal."""
    path = tmp_path / "redis.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(9)
        client = blocking_client(RedisAccess(f"unix://{path}"), 0.05)
        with (
            contextlib.closing(client),
            pytest.raises(Unavailable, match="does not answer"),
            translated(),
        ):
            client.get("th:tenants")
        listener.setblocking(False)
        with listener.accept()[0], pytest.raises(BlockingIOError):
            listener.accept()


def test_options_name_the_user(run, guarded, named):
    assert 0 == run("tenants", "list", *named(OPERATOR))[0]
    billing = named(OPERATOR, "--billing-redis")
    assert 0 == run("billing", "customers", "list", *billing)[0]
    both = [*named(OPERATOR), *billing]
    assert 0 == run("billing", "parked", "history", *both)[0]


def test_a_user_who_may_not(run, named):
    """It is refused, which is no outage."""
    status, said = run("tenants", "list", *named("billing"))

    assert (1, True) == (status, "Redis refused" in said)


@pytest.mark.parametrize(
    "about",
    [
        (["tenants", "list"], "--redis"),
        (["billing", "parked", "history"], "--redis"),
        (["billing", "customers", "list"], "--billing-redis"),
    ],
)
def test_a_wrong_password(run, named, tmp_path, about):
    """The terminal says what is wrong in one line, and not with what."""
    command, prefix = about
    wrong = secret_file(tmp_path, "hunter2")
    options = [*named(OPERATOR, prefix)[:-1], str(wrong)]

    status, said = run(*command, *options)

    assert 1 == status
    assert "WRONGPASS" in said or "invalid username-password" in said
    assert "redis.refused" not in said
    assert 1 == said.count("\n")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--redis-user", "operator"], "--redis-* without --redis-url"),
        (["--redis-ca-file", "ca.pem"], "--redis-* without --redis-url"),
        (
            ["--redis-url", "unix:///x", "--redis-user", "operator"],
            "needs a password file",
        ),
        (
            ["--redis-url", "redis://x", "--redis-ca-file", "ca.pem"],
            "has to start with rediss://",
        ),
        (
            ["--redis-url", "unix:///x", "--redis-password-file", "/nowhere"],
            "No such file",
        ),
    ],
)
def test_options_that_do_not_fit(run, options, reason):
    status, said = run("tenants", "list", *options)

    assert 2 == status
    assert reason in said
