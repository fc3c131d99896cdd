"""Settings of the authz process."""

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

    listen: str = Field(description="where Envoy finds us: unix:/path or host:port")
    redis_url: str = Field(
        description="Redis of tenants and keys: unix:///path, redis:// or "
        "rediss://host:port/0"
    )
    pepper_file: Path = Field(
        description="file with the secret that key digests are made with"
    )
    config: Path | None = Field(
        None, description="tollhouse.yaml; without it there are keys, and no JWTs"
    )
    log_level: Level = Field("info", description="debug, info, warning or error")
