"""Where chunks go: the provider the settings name, and whose accounts it has."""

import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from tollhouse.adapters import billing_ledger
from tollhouse.adapters.billing_ledger import BillingLedger
from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.process import StartError
from tollhouse.adapters.redis.chunks import Chunks
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.customers import Customers
from tollhouse.billing.config import ProviderName, Settings, StripeApi
from tollhouse.billing.sealer import Accounts
from tollhouse.core.catalog import Catalog
from tollhouse.core.chunk import Account, Provider, Rejection

_WEBHOOK_DRAIN_SECONDS = 2.0
_WEBHOOK_KEEP_ALIVE_SECONDS = 30
_WEBHOOKS_AT_ONCE = 32

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Shipping:
    """The provider, how tenants are found there, what runs beside it."""

    provider: Provider
    accounts: Accounts
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()


def open_shipping(
    settings: Settings,
    stack: contextlib.AsyncExitStack,
    *,
    redis: Redis,
    chunks: Chunks,
    catalog: Callable[[], Catalog],
    clock: Callable[[], float],
    metrics: BillingMetrics,
) -> Shipping:
    """Open what the settings name; the stack closes it. Raises StartError."""
    if settings.provider is ProviderName.STRIPE:
        return _stripe(
            settings, stack, redis=redis, chunks=chunks, clock=clock, metrics=metrics
        )
    folder = settings.billing_ledger
    if folder is None:  # the settings make sure
        raise StartError("TOLLHOUSE_BILLING_LEDGER: is not set")
    try:
        provider = BillingLedger(
            folder,
            settings.billing_ledger_format,
            deployment=settings.deployment,
            catalog=catalog,
        )
    except OSError as error:
        raise StartError(
            f"TOLLHOUSE_BILLING_LEDGER: can't use {folder}: {error.strerror}"
        ) from error
    stack.callback(provider.close)
    return Shipping(provider, _themselves)


async def _themselves(tenants: Sequence[str]) -> Mapping[str, Account]:
    """Every tenant has an account in the billing ledger: its own name."""
    return {tenant: Account(billing_ledger.NAME, tenant) for tenant in tenants}


def _stripe(
    settings: Settings,
    stack: contextlib.AsyncExitStack,
    *,
    redis: Redis,
    chunks: Chunks,
    clock: Callable[[], float],
    metrics: BillingMetrics,
) -> Shipping:
    # Here: who does not ship to Stripe needs none of its packages.
    from tollhouse.adapters.http_server import HttpServer, listening  # noqa: PLC0415
    from tollhouse.adapters.stripe.client import Client  # noqa: PLC0415
    from tollhouse.adapters.stripe.meter_events import (  # noqa: PLC0415
        NAME,
        MeterEvents,
    )
    from tollhouse.adapters.stripe.meter_stream import (  # noqa: PLC0415
        MeterEventStream,
    )
    from tollhouse.adapters.stripe.secret import (  # noqa: PLC0415
        SecretError,
        read_signing_secret,
    )
    from tollhouse.adapters.stripe.webhook import Webhook  # noqa: PLC0415
    from tollhouse.billing.webhook import WebhookEndpoint  # noqa: PLC0415

    key_file, secret_file = settings.stripe_key_file, settings.webhook_secret_file
    if key_file is None:  # the settings make sure
        raise StartError("TOLLHOUSE_STRIPE_KEY_FILE: is not set")
    try:
        client = Client.open(
            key_file, url=settings.stripe_url, timeout_seconds=settings.call_seconds
        )
        secret = None if secret_file is None else read_signing_secret(secret_file)
    except (SecretError, ValueError) as error:
        raise StartError(f"provider stripe: {error}") from error
    stack.push_async_callback(client.close)
    customers = Customers(redis)

    async def accounts(tenants: Sequence[str]) -> Mapping[str, Account]:
        found = await customers.of(tenants)
        return {tenant: Account(NAME, customer) for tenant, customer in found.items()}

    async def rejected(rejections: list[Rejection]) -> None:
        for it in rejections:
            stored = await chunks.reject(it, now=int(clock()))
            if stored is not None:
                _log.error("chunk.rejected", chunk=stored.chunk.id, code=it.code)

    is_stream = settings.stripe_api is StripeApi.METER_EVENT_STREAM
    provider = MeterEventStream(client) if is_stream else MeterEvents(client)
    if settings.webhook_listen is None or secret is None:
        return Shipping(provider, accounts)
    listener = stack.enter_context(listening(settings.webhook_listen))
    server = HttpServer(
        WebhookEndpoint(Webhook(client, secret), rejected, metrics.rejected),
        listener,
        drain_seconds=_WEBHOOK_DRAIN_SECONDS,
        keep_alive_seconds=_WEBHOOK_KEEP_ALIVE_SECONDS,
        most_at_once=_WEBHOOKS_AT_ONCE,
    )
    return Shipping(provider, accounts, [server.run])
