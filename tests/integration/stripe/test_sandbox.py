"""Against a real Stripe sandbox: the rules that everything else takes on trust.

Opt-in: runs where STRIPE_TEST_KEY holds a sandbox's key (never a live one), and leaves
a customer and a deactivated meter behind there.
"""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator

import pytest
import stripe

from tests.integration.stripe.sdk import WARNING, refused

_KEY = os.environ.get("STRIPE_TEST_KEY", "")
_SUMMARY_SECONDS = 300.0

pytestmark = [
    pytest.mark.filterwarnings(WARNING),
    pytest.mark.timeout(_SUMMARY_SECONDS + 120),
    pytest.mark.skipif(
        not _KEY, reason="needs a Stripe sandbox: set STRIPE_TEST_KEY to its key"
    ),
]


@pytest.fixture
async def sandbox() -> AsyncIterator[stripe.StripeClient]:
    if not _KEY.startswith(("sk_test_", "rk_test_")):
        pytest.fail("STRIPE_TEST_KEY is not a test key", pytrace=False)
    http = stripe.HTTPXClient(timeout=30)
    yield stripe.StripeClient(_KEY, http_client=http, max_network_retries=0)
    await http.close_async()


async def test_an_identifier_counts_once_and_its_minute_says_so(sandbox):
    """Duplicate: a 400 with this message. Summary: the minute's own sum."""
    event_name = f"tollhouse_test_{secrets.token_hex(6)}"
    meter = await sandbox.v1.billing.meters.create_async(
        {
            "display_name": "Tollhouse's test",
            "event_name": event_name,
            "default_aggregation": {"formula": "sum"},
        }
    )
    try:
        customer = await sandbox.v1.customers.create_async({"name": event_name})
        now = int(time.time())
        identifier = f"th1_test_{secrets.token_hex(20)}"
        event = {
            "event_name": event_name,
            "identifier": identifier,
            "payload": {"stripe_customer_id": customer.id, "value": "41"},
            "timestamp": now,
        }
        create = sandbox.v1.billing.meter_events.create_async
        taken = await create(event, {"idempotency_key": f"{identifier}@1"})
        assert identifier == taken.identifier
        error = await refused(create(event, {"idempotency_key": f"{identifier}@2"}))
        assert (400, stripe.InvalidRequestError) == (error.http_status, type(error))
        assert f"already exists with identifier {identifier}" in str(error)
        assert "false" == error.headers.get("stripe-should-retry")
        minute = now // 60 * 60
        assert 41 == await _summary(sandbox, meter.id, customer.id, minute)
    finally:
        await sandbox.v1.billing.meters.deactivate_async(meter.id)


async def _summary(
    sandbox: stripe.StripeClient, meter: str, customer: str, minute: int
) -> float:
    """Return what the minute says, once it says something: it takes a while."""
    async with asyncio.timeout(_SUMMARY_SECONDS):
        while True:
            page = await sandbox.v1.billing.meters.event_summaries.list_async(
                meter,
                {
                    "customer": customer,
                    "start_time": minute,
                    "end_time": minute + 60,
                },
            )
            total = sum(it.aggregated_value for it in page.data)
            if total:
                return total
            await asyncio.sleep(5)
