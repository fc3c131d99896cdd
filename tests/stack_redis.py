"""The Redis of a running `tollhouse up`, as its operator sees it."""

from pathlib import Path

import redis

from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.redis_py import options_of
from tollhouse.cli.redis_options import local_redis


def operator_of(state_dir: Path) -> RedisAccess:
    """The way in as the operator, who reads all and writes what `tollhouse` writes."""
    return local_redis(state_dir)


def open_redis(access: RedisAccess) -> redis.Redis:
    """A client whose replies are bytes."""
    return redis.Redis(**{**options_of(access), "decode_responses": False})
