"""Settings of the billing process."""

from enum import StrEnum
from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from tollhouse.adapters.charge_lines import Format
from tollhouse.adapters.grpc_server import HealthSettings
from tollhouse.adapters.logs import Level
from tollhouse.adapters.redis.settings import BillingRedisSettings
from tollhouse.adapters.tls import TlsSettings
from tollhouse.core.meter import DEPLOYMENT, DEPLOYMENT_NAME


class ProviderName(StrEnum):
    """Where chunks go."""

    LEDGER = "ledger"
    STRIPE = "stripe"


class StripeApi(StrEnum):
    """How chunks go to Stripe."""

    METER_EVENTS = "meter_events"
    METER_EVENT_STREAM = "meter_event_stream"


class Settings(BillingRedisSettings, TlsSettings, HealthSettings):
    """Read once, at start, from the environment."""

    model_config = SettingsConfigDict(env_prefix="TOLLHOUSE_", frozen=True)

    listen: str = Field(description="where relays find us: unix:/path or host:port")
    billing_redis_url: str = Field(
        description="Redis of the billing windows: unix:///path, "
        "redis://host:port/0 or redis+cluster://host:port,host:port; over TLS "
        "rediss://… or rediss+cluster://…"
    )
    config: Path = Field(description="tollhouse.yaml: prices and their currency")
    deployment: str = Field(
        DEPLOYMENT,
        pattern=DEPLOYMENT_NAME,
        description="name that tells this gateway from others that use the same account"
        " at the provider; never changed",
    )
    dedupe_hours: int = Field(
        48,
        ge=48,
        description="how long record ids are remembered behind the oldest record of "
        "every outbox, at 64 bytes each",
    )
    seal_delay_seconds: int = Field(
        300, ge=0, le=3000, description="how long after its hour a window is sealed"
    )
    seal_every_seconds: int = Field(
        3600,
        ge=60,
        le=86_400,
        description="how often windows that got late records are sealed again",
    )
    provider: ProviderName = Field(
        ProviderName.LEDGER, description="where usage goes: ledger (files) or stripe"
    )
    billing_ledger: Path | None = Field(
        None, description="folder of the files of provider ledger"
    )
    billing_ledger_format: Format = Field(
        Format.CLOUDEVENTS, description="of their lines: cloudevents or focus"
    )
    stripe_key_file: Path | None = Field(
        None,
        description="file with a restricted key: may write billing meter events and "
        "read billing meters",
    )
    stripe_api: StripeApi = Field(
        StripeApi.METER_EVENTS,
        description="meter_events, or meter_event_stream for more than 500 calls/s",
    )
    stripe_url: str | None = Field(
        None, description="what stands for Stripe's API, for tests"
    )
    webhook_listen: str | None = Field(
        None, description="where Stripe's reports arrive: unix:/path or host:port"
    )
    webhook_secret_file: Path | None = Field(
        None, description="file with the webhook's signing secret"
    )
    calls_per_second: float = Field(
        100, gt=0, le=1000, description="most calls to the provider, of this process"
    )
    call_seconds: float = Field(
        10, ge=0.1, le=80, description="longest call to the provider"
    )
    longest_pause_seconds: float = Field(
        60,
        ge=0.1,
        le=3600,
        description="longest pause between attempts at the same chunk",
    )
    log_level: Level = Field("info", description="debug, info, warning or error")

    @model_validator(mode="after")
    def _is_whole(self) -> "Settings":
        if self.provider is ProviderName.LEDGER and self.billing_ledger is None:
            raise ValueError(
                "provider ledger needs TOLLHOUSE_BILLING_LEDGER, a folder for its files"
            )
        if self.provider is ProviderName.STRIPE and self.stripe_key_file is None:
            raise ValueError("provider stripe needs TOLLHOUSE_STRIPE_KEY_FILE")
        if (self.webhook_listen is None) != (self.webhook_secret_file is None):
            raise ValueError(
                "TOLLHOUSE_WEBHOOK_LISTEN and TOLLHOUSE_WEBHOOK_SECRET_FILE go together"
            )
        if self.webhook_listen is not None and self.provider is ProviderName.LEDGER:
            raise ValueError("TOLLHOUSE_WEBHOOK_LISTEN is for provider stripe")
        return self
