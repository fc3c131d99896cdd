"""The settings by which a process gets at its Redis, beside the URL."""

from pathlib import Path
from typing import Any, Final

from pydantic import Field
from pydantic_settings import BaseSettings

from tollhouse.adapters.redis.access import RedisAccess

_USER: Final = "who we are there, see deploy/redis; none: the user `default`"
_PASSWORD: Final = "file with that user's password, read at each connect"  # noqa: S105
_CA: Final = (
    "PEM: who signs its certificate, for rediss://; none: whom the system trusts"
)
_CERT: Final = "PEM: our certificate, where it wants one"
_KEY: Final = "PEM: the key of that certificate"


class RedisSettings(BaseSettings):
    """Of the Redis of tenants, keys and limits."""

    redis_url: str
    redis_user: str | None = Field(None, description=_USER)
    redis_password_file: Path | None = Field(None, description=_PASSWORD)
    redis_ca_file: Path | None = Field(None, description=_CA)
    redis_cert_file: Path | None = Field(None, description=_CERT)
    redis_key_file: Path | None = Field(None, description=_KEY)

    @property
    def redis_access(self) -> RedisAccess:
        """All of it. Raises ValueError for what does not fit together."""
        return _access(self, "redis")


class BillingRedisSettings(BaseSettings):
    """Of the Redis of billing."""

    billing_redis_url: str
    billing_redis_user: str | None = Field(None, description=_USER)
    billing_redis_password_file: Path | None = Field(None, description=_PASSWORD)
    billing_redis_ca_file: Path | None = Field(None, description=_CA)
    billing_redis_cert_file: Path | None = Field(None, description=_CERT)
    billing_redis_key_file: Path | None = Field(None, description=_KEY)

    @property
    def redis_access(self) -> RedisAccess:
        """All of it. Raises ValueError for what does not fit together."""
        return _access(self, "billing_redis")


def _access(settings: Any, prefix: str) -> RedisAccess:
    names = ("url", "user", "password_file", "ca_file", "cert_file", "key_file")
    return RedisAccess(*(getattr(settings, f"{prefix}_{name}") for name in names))
