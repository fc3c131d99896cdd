"""Settings of the collector process."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tollhouse.adapters.logs import Level


class Settings(BaseSettings):
    """Read once, at start, from the environment."""

    model_config = SettingsConfigDict(env_prefix="TOLLHOUSE_", frozen=True)

    listen: str = Field(
        description="where OTLP/gRPC comes in: host:port, of this machine only"
    )
    http_listen: str = Field(
        description="where OTLP/HTTP comes in and the pages are: host:port, of this "
        "machine only"
    )
    log_level: Level = Field("info", description="debug, info, warning or error")
