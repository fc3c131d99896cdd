"""A Redis for the command line: calls wait, and fail as everything of ours fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.redis_py import blocking_client
from tollhouse.core.problems import ProtocolError, Unavailable

_TIMEOUT_SECONDS = 3.0


def open_blocking(place: RedisAccess | str) -> Any:
    """Make a client that connects on first use; its replies are text.

    A URL alone is a Redis without users. Raises ValueError for what can't lead to a
    Redis, a file that can't be used included, or names a cluster.
    """
    access = RedisAccess(place) if isinstance(place, str) else place
    if access.is_cluster:
        # What is changed together has keys in several slots.
        raise ValueError(
            "tenants and keys need a single Redis (unix:///path, redis://host:port/0), "
            "the one authz has as TOLLHOUSE_REDIS_URL; that of extproc is a setting of "
            "its own, and only that may be a cluster"
        )
    access.check()
    return blocking_client(access, _TIMEOUT_SECONDS)


@contextmanager
def translated() -> Iterator[None]:
    """Keep the vendor's exceptions in here: what they stop is Unavailable."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise Unavailable(f"Redis refused: {error}", transient=False) from error
    except redis.ConnectionError as error:
        raise Unavailable(f"Redis can't be reached: {error}") from error
    except redis.TimeoutError as error:
        raise Unavailable("Redis does not answer") from error
    except redis.RedisError as error:
        raise Unavailable(f"Redis refused: {error}", transient=False) from error
    except ProtocolError as error:
        raise Unavailable(
            f"Redis holds what this release can't read: {error}", transient=False
        ) from error
