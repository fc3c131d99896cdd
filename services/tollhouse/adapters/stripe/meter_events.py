"""Chunks as Stripe's meter events, one a call.

`POST /v1/billing/meter_events` (https://docs.stripe.com/api/billing/meter-event): up to
1,000 a second, one at a time per customer and meter, checked at once but for what
comes by webhook (webhook.py).
"""

from collections.abc import Sequence

from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.outcome import UNREADABLE, CallError
from tollhouse.adapters.stripe.totals import Totals
from tollhouse.core.chunk import Answer, Attempt, Chunk, Verdict
from tollhouse.core.meter_plan import CUSTOMER_KEY, VALUE_KEY

NAME = "stripe"
"""As chunks remember the provider, however they are sent."""


class MeterEvents:
    """Stripe as the provider of core.chunk."""

    name = NAME
    most_at_once = 1

    def __init__(self, client: Client) -> None:
        self._client = client
        self._totals = Totals(client)

    async def ship(self, attempts: Sequence[Attempt]) -> Sequence[Answer]:
        """Send one chunk. Raises Unavailable for a refused key."""
        (attempt,) = attempts
        try:
            return [await self._create(attempt)]
        except CallError as error:
            failed = error
        return [failed.answer()]

    async def total(self, customer: str, event_name: str, start: int, end: int) -> int:
        """What Stripe has of a customer and meter. Raises Unavailable."""
        return await self._totals.total(customer, event_name, start, end)

    async def _create(self, attempt: Attempt) -> Answer:
        chunk = attempt.chunk
        event = await self._client.sdk.v1.billing.meter_events.create_async(
            {
                "event_name": chunk.event_name,
                "payload": payload(chunk),
                "identifier": chunk.identifier,
                "timestamp": chunk.timestamp,
            },
            {"idempotency_key": attempt.key},
        )
        if getattr(event, "identifier", None) != chunk.identifier:
            # A 200 of somebody else, or of another event: whether it was taken is open.
            return Answer(Verdict.UNKNOWN, UNREADABLE)
        return Answer(Verdict.ACCEPTED)


def payload(chunk: Chunk) -> dict[str, str]:
    """A chunk's customer and value under the keys our meters read."""
    return {CUSTOMER_KEY: chunk.account.customer, VALUE_KEY: str(chunk.value)}
