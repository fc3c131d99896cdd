"""redis-py, for what our own client is not made for: to block, and to subscribe."""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncioRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.credentials import CredentialProvider
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from tollhouse.adapters.redis.access import AccessError, RedisAccess
from tollhouse.adapters.redis.node import DEFAULT_PORT

_RETRIES = 3
"""Within a second: a connection that ended costs nothing, and who asks a Redis that is
away or refuses is told soon."""


class _Credentials(CredentialProvider):
    """Reads the password file anew for each connection."""

    def __init__(self, access: RedisAccess) -> None:
        self._access = access

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            credentials = self._access.credentials()
        except AccessError as error:
            # As what redis-py's callers expect of it, also of a reconnect.
            raise redis.AuthenticationError(str(error)) from error
        return cast("tuple[str] | tuple[str, str]", credentials)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return await asyncio.to_thread(self.get_credentials)


def options_of(access: RedisAccess) -> dict[str, Any]:
    """What `redis.Redis` and `redis.asyncio.Redis` take to get at a single Redis.

    Raises AccessError for a cluster, ValueError for a port that is none.
    """
    if access.is_cluster:
        raise AccessError("this needs a single Redis, not a cluster")
    place = urlsplit(access.url)
    options: dict[str, Any] = {
        "decode_responses": True,
        # What anybody may have said on a channel must not end who hears it.
        "encoding_errors": "replace",
        # Nothing of its own accord: each command would need leave.
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if place.scheme == "unix":
        options["unix_socket_path"] = unquote(place.path)
    else:
        options["host"] = place.hostname or "127.0.0.1"
        options["port"] = place.port or DEFAULT_PORT
        options["db"] = int(place.path.strip("/") or 0)
    if access.password_file is not None:
        options["credential_provider"] = _Credentials(access)
    if access.is_tls:
        options |= {
            "ssl": True,
            "ssl_ca_certs": access.ca_file and str(access.ca_file),
            "ssl_certfile": access.cert_file and str(access.cert_file),
            "ssl_keyfile": access.key_file and str(access.key_file),
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        }
    return options


def blocking_client(access: RedisAccess, timeout_seconds: float) -> Any:
    """Make a client that connects on first use; replies are text.

    `timeout_seconds` is for each connect and each reply. A Redis that hangs is asked
    once: each try takes all of that time, and what was sent may be done yet. Raises as
    `options_of`.
    """
    # Any: redis-py's types hold for both kinds of replies at once.
    return redis.Redis(
        **options_of(access),
        retry=Retry(_pauses(), _RETRIES, supported_errors=(redis.ConnectionError,)),
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
    )


def asyncio_clients(access: RedisAccess) -> "Callable[[], redis.asyncio.Redis]":
    """Return what makes asyncio clients; they connect on first use, replies are text.

    Raises AccessError as `options_of`.
    """
    retry = AsyncioRetry(_pauses(), _RETRIES)
    return partial(redis.asyncio.Redis, **options_of(access), retry=retry)


def _pauses() -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(base=0.05, cap=0.5)
