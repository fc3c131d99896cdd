"""deploy/redis is what runs: its configuration starts, its two renderings agree."""

import contextlib
import subprocess
from pathlib import Path

import pytest

from tests.redis_process import find_binary, running_redis, secret_file
from tollhouse.adapters.redis.blocking import open_blocking
from tollhouse.cli import places
from tollhouse.cli.redis_users import FIRST_WITH_SELECTORS, USERS, RedisUsers, render

DEPLOY = Path(__file__).resolve().parents[3] / "deploy" / "redis"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Passwords with the white space that editors and `kubectl create secret` leave."""
    (passwords := tmp_path / "passwords").mkdir()
    for at, user in enumerate(USERS):
        secret_file(passwords, f"{' ' * at}of {user}/&\\1 {' ' * at}\r", user)
    return passwords


def rendered(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [DEPLOY / "render.sh", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("selectors", [True, False])
def test_the_shell_renders_as_up_does(folder: Path, selectors):
    option = [] if selectors else ["--6.2"]
    shell = rendered(*option, str(folder))
    passwords = {it: RedisUsers(folder).password(it) for it in USERS}
    template = places.redis_users().read_text()

    assert "" == shell.stderr
    assert render(template, passwords, selectors=selectors) == shell.stdout
    assert selectors == ("(" in shell.stdout)
    assert "of extproc" not in shell.stdout


def test_a_user_without_a_password_is_not_made(folder: Path):
    (folder / "admin").write_text(" \n")
    empty = rendered(str(folder))
    (folder / "admin").unlink()
    gone = rendered(str(folder))

    assert (1, "") == (empty.returncode, empty.stdout)
    assert "admin is empty" in empty.stderr
    assert "" == gone.stdout
    assert 0 != gone.returncode
    assert (2, "") == (rendered().returncode, rendered().stdout)


def test_the_configuration_starts(folder: Path, tmp_path: Path):
    """With the ACL file, and nobody in without a name."""
    binary = Path(find_binary("redis-server"))
    has_selectors = places.redis_version(binary) >= FIRST_WITH_SELECTORS
    acl = rendered(*([] if has_selectors else ["--6.2"]), str(folder)).stdout
    acl_file = secret_file(tmp_path, acl, "users.acl")
    # Its own folder is that of a deployment.
    text = (DEPLOY / "redis.conf").read_text()
    configuration = tmp_path / "redis.conf"
    configuration.write_text(text.replace("dir /var/lib/redis", f"dir {tmp_path}"))
    with running_redis(
        appendonly="yes",
        options=("--aclfile", str(acl_file)),
        configuration=configuration,
    ) as server:
        operator = RedisUsers(folder).access(server.url, "operator")
        with contextlib.closing(open_blocking(operator)) as client:
            facts = client.info()
    assert 1 == facts["aof_enabled"]
    assert "noeviction" == facts["maxmemory_policy"]
