"""Stripe's SDK pointed at a stand-in, and what its exceptions say."""

import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
import stripe

EVENT_NAME = "tollhouse_tokens"
WARNING = "ignore:Use 'content=:DeprecationWarning"
"""The SDK calls httpx 0.28 in a way that warns on every POST."""


@contextlib.asynccontextmanager
async def sdk_client(
    url: str, key: str, *, patience: float = 30.0, retries: int = 0
) -> AsyncIterator[stripe.StripeClient]:
    """Stripe's SDK, pointed at a stand-in; `patience` is its timeout in seconds."""
    # Plain HTTP: reading the certificates would take longer than most tests.
    http = stripe.HTTPXClient(timeout=patience, verify_ssl_certs=False)
    yield stripe.StripeClient(
        key,
        base_addresses={"api": url, "meter_events": url},
        http_client=http,
        max_network_retries=retries,
    )
    await http.close_async()


async def refused(call: Awaitable[object]) -> Any:
    """Await a call that must fail; its exception, whose attributes depend on it."""
    with pytest.raises(stripe.StripeError) as caught:
        await call
    return caught.value


def code_of(error: stripe.StripeError) -> Any:
    """Return the code in the body: the SDK's RateLimitError drops it."""
    assert isinstance(error.json_body, dict)
    return error.json_body["error"].get("code")
