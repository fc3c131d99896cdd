"""A redis-server with the users of deploy/redis, and who they are."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.redis_process import RedisServer, find_binary, running_redis, secret_file
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.cli import places
from tollhouse.cli.redis_users import FIRST_WITH_SELECTORS, USERS, RedisUsers

SUPERUSER = "user root on nopass ~* &* +@all\n"


@dataclass(frozen=True, slots=True)
class Guarded:
    """A redis-server on which everybody is somebody."""

    server: RedisServer
    users: RedisUsers
    has_selectors: bool

    def access(self, user: str) -> RedisAccess:
        """The way in as a user."""
        return self.users.access(self.server.url, user)

    @contextlib.contextmanager
    def client(self, user: str) -> Iterator[redis.Redis]:
        """A client as a user; `root` may do all, as the test's own hand."""
        password = "" if user == "root" else self.users.password(user)
        options: dict[str, Any] = {"protocol": 2, "driver_info": None}
        with redis.Redis(
            unix_socket_path=str(self.server.socket_path),
            username=user,
            password=password,
            **options,
        ) as client:
            client.response_callbacks.clear()
            yield client


@pytest.fixture(scope="package")
def guarded(tmp_path_factory) -> Iterator[Guarded]:
    """One of the version in use, with our users and a superuser of the test."""
    folder = tmp_path_factory.mktemp("users")
    for user in USERS:
        secret_file(folder, f"password of {user}".replace(" ", "-"), user)
    users, binary = RedisUsers(folder), Path(find_binary("redis-server"))
    acl = secret_file(folder, users.acl(binary) + SUPERUSER, "users.acl")
    with running_redis(options=("--aclfile", str(acl))) as server:
        version = places.redis_version(binary)
        yield Guarded(server, users, version >= FIRST_WITH_SELECTORS)
