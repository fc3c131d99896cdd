"""Settings of the extproc process."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tollhouse.adapters.grpc_server import HealthSettings
from tollhouse.adapters.ledger_rotation import LARGEST_BYTES
from tollhouse.adapters.logs import Level
from tollhouse.adapters.redis.settings import RedisSettings
from tollhouse.adapters.tls import TlsSettings


class DrainSettings(BaseSettings):
    """Settings of how this process's Envoy and the process itself come to their end."""

    drain_listen: str | None = Field(
        None,
        description="where `GET /drain` is answered, for a preStop hook: host:port or "
        "unix:/path; it takes ENVOY_ADMIN, and host:port takes DRAIN_PERMIT",
    )
    drain_permit: Path | None = Field(
        None,
        description="file without which nobody can drain; a preStop hook of this "
        "container makes it",
    )
    drain_notice_seconds: float = Field(
        5.0,
        ge=0,
        description="how long load balancers get to notice that Envoy is to end: once "
        "before its readiness fails, once after",
    )
    drain_seconds: float = Field(
        1220.0,
        gt=0,
        description="longest drain; with FINISH_SECONDS it must be below "
        "terminationGracePeriodSeconds. By default twice the longest stream (600 s): a "
        "connection that has one when the drain begins may ask for another",
    )
    finish_seconds: float = Field(
        15.0,
        gt=0,
        description="how long a process that stops may settle what is left",
    )


class Settings(RedisSettings, TlsSettings, HealthSettings, DrainSettings):
    """Read once, at start, from the environment."""

    model_config = SettingsConfigDict(env_prefix="TOLLHOUSE_", frozen=True)

    listen: str = Field(description="where Envoy finds us: unix:/path or host:port")
    redis_url: str = Field(
        description="Redis of limits, leases and outbox: unix:///path, "
        "redis://host:port/0 or redis+cluster://host:port,host:port; over TLS "
        "rediss://… or rediss+cluster://…"
    )
    config: Path = Field(description="tollhouse.yaml: models and plans")
    admission_proof_file: Path = Field(
        description="file with the value Envoy's backend routes require"
    )
    ledger: Path = Field(description="the ledger file Envoy writes")
    envoy_admin: str | None = Field(
        None,
        description="Envoy's admin listener, host:port or unix:/path, to rotate the "
        "ledger with and to ask for healthy backends; without it nothing is rotated, "
        "and no fallback is used",
    )
    ledger_rotate_bytes: int = Field(
        LARGEST_BYTES, ge=1, description="size from which the ledger is rotated"
    )
    billing_target: str = Field(
        description="gRPC target of the billing aggregator: unix:/path or host:port"
    )
    billing_ca_file: Path | None = Field(
        None, description="PEM: the authorities that sign the aggregator's certificate"
    )
    billing_cert_file: Path | None = Field(
        None,
        description="PEM: our certificate towards it (default: TLS_CERT_FILE)",
    )
    billing_key_file: Path | None = Field(
        None, description="PEM: the key of that certificate (default: TLS_KEY_FILE)"
    )
    billing_server_name: str | None = Field(
        None,
        description="DNS name in its certificate, where it is not the target's host",
    )
    node: str = Field("local", description="name of the Envoy whose ledger this is")
    worker: str = Field(
        "extproc-0", description="name of this worker, the same over its restarts"
    )
    min_workers: int = Field(
        1, ge=1, description="extproc workers there are at least, on all nodes"
    )
    log_level: Level = Field("info", description="debug, info, warning or error")
