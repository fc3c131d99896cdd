"""Settings of the billing process."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tollhouse.adapters.telemetry import Level


class Settings(BaseSettings):
    """Read once, at start, from the environment."""

    model_config = SettingsConfigDict(env_prefix="TOLLHOUSE_", frozen=True)

    listen: str = Field(description="where relays find us: unix:/path or host:port")
    billing_redis_url: str = Field(
        description="Redis of the billing windows: unix:///path, "
        "redis://host:port/0 or redis+cluster://host:port,host:port"
    )
    dedupe_hours: int = Field(
        96,
        ge=48,
        description=(
            "how long record ids are remembered, at 64 bytes each; also the longest "
            "outage of ours after which everything is billed without an operator"
        ),
    )
    log_level: Level = Field("info", description="debug, info, warning or error")
