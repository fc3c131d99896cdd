"""A stand-in for Stripe in the test's own process, and the real SDK on it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import stripe

from tests.integration.stripe.sdk import EVENT_NAME, sdk_client
from tests.stripe_stand_in.server import running_stand_in
from tests.stripe_stand_in.stand_in import StandIn

Send = Callable[..., Awaitable[Any]]


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    async with running_stand_in() as running:
        yield running


@pytest.fixture
async def client(stand_in: StandIn) -> AsyncIterator[stripe.StripeClient]:
    async with sdk_client(stand_in.url, stand_in.api_key) as it:
        yield it


@pytest.fixture
def meter(stand_in: StandIn) -> str:
    """Return the id of a meter named EVENT_NAME."""
    return stand_in.add_meter(EVENT_NAME)


@pytest.fixture
def customer(stand_in: StandIn) -> str:
    return stand_in.add_customer("cus_a")


@pytest.fixture
def send(
    stand_in: StandIn, client: stripe.StripeClient, meter: str, customer: str
) -> Send:
    """Return a function that sends one event of v1; names override its parameters."""

    async def send(identifier: str, value: Any = 5, key: str | None = None, **other):
        params: dict[str, Any] = {
            "event_name": EVENT_NAME,
            "identifier": identifier,
            "payload": {"stripe_customer_id": customer, "value": str(value)},
            "timestamp": int(stand_in.clock.now()),
            **other,
        }
        options: Any = {} if key is None else {"idempotency_key": key}
        create = client.v1.billing.meter_events.create_async
        return await create(params, options)  # type: ignore[arg-type]

    return send
