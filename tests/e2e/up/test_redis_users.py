"""`tollhouse up` practises what deploy/redis preaches: nobody is in without a name."""

import json
import subprocess

import psutil
import pytest
import redis

from tests.e2e.running_stack import curl_line, minimal_environment, wait_until
from tollhouse.cli.redis_users import USERS, RedisUsers

ALL_OF_IT = (
    ("tenants", "create", "users", "--plan", "demo"),
    ("tenants", "list"),
    ("keys", "list"),
    ("limits", "set", "--tenant", "users", "--units-per-minute", "1_000"),
    ("limits", "show", "--tenant", "users"),
    ("usage",),
    ("billing", "parked", "list"),
    ("billing", "customers", "list"),
    ("billing", "parked", "records"),
    ("billing", "parked", "history"),
    ("reconcile",),
)
"""A command of each kind; all are the operator."""


def test_strangers_stay_outside(stack):
    """The socket is the owner's alone; a process of the owner needs a name too."""
    socket = stack.redis_url.removeprefix("unix://")
    for user, password in ((None, None), (None, "x"), ("operator", "x")):
        with (
            redis.Redis(
                unix_socket_path=socket, username=user, password=password
            ) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


def test_passwords_are_in_files_only(stack):
    """Each its own, for its owner; none on a command line, in an environment, a log."""
    users = RedisUsers(stack.state_dir / "redis-users")
    files = [users.password_file(it) for it in USERS]
    passwords = {it.read_text().strip() for it in files}

    assert len(USERS) == len(passwords)
    assert all(len(it) == 64 for it in passwords)
    assert {0o600} == {it.stat().st_mode & 0o777 for it in files}
    shown = [stack.said, (stack.state_dir / "run" / "users.acl").read_text()]
    shown += [it.read_text() for it in (stack.state_dir / "logs").glob("*.log")]
    for process in map(psutil.Process, stack.pids.values()):
        shown += [*process.cmdline(), *process.environ().values()]
    assert not any(password in text for password in passwords for text in shown)


def test_each_part_may_do_its_work(stack):
    """An exchange from the key to the bill, a command of each kind: none is refused."""
    with stack.redis() as operator:
        operator.execute_command("ACL", "LOG", "RESET")
    subprocess.run(
        ["/bin/sh", "-c", curl_line(stack.said)],
        capture_output=True,
        timeout=60,
        env=minimal_environment(),
        check=True,
    )
    wait_until(lambda: json.loads(stack.run("usage", "--json")), 60)
    for command in ALL_OF_IT:
        stack.run(*command)

    assert [] == stack.refused_by_redis()


def test_what_is_refused_is_seen(stack):
    """The check above would see it."""
    with stack.redis() as operator:
        with pytest.raises(redis.exceptions.NoPermissionError):
            operator.flushall()
        assert [("operator", "flushall")] == stack.refused_by_redis()
        operator.execute_command("ACL", "LOG", "RESET")
