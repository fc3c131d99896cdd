"""Settings of the admin process."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from tollhouse.adapters.grpc_server import HealthSettings
from tollhouse.adapters.logs import Level
from tollhouse.adapters.redis.settings import RedisSettings
from tollhouse.adapters.tls import TlsSettings


class Settings(RedisSettings, TlsSettings, HealthSettings):
    """Read once, at start, from the environment."""

    model_config = SettingsConfigDict(env_prefix="TOLLHOUSE_", frozen=True)

    listen: str = Field(description="where callers find us: unix:/path or host:port")
    redis_url: str = Field(
        description="Redis of tenants and keys: unix:///path, redis:// or "
        "rediss://host:port/0"
    )
    admin_tokens_file: Path = Field(
        description="who may call: a line `name:token` or `name:token:read` for each"
    )
    pepper_file: Path | None = Field(
        None,
        description="file with the secret that key digests are made with; without it "
        "no key is made here",
    )
    log_level: Level = Field("info", description="debug, info, warning or error")
