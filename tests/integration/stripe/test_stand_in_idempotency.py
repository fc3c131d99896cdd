"""What an Idempotency-Key remembers, on v1 and on v2."""

import asyncio

import pytest
import stripe

from tests.integration.stripe.sdk import (
    EVENT_NAME,
    WARNING,
    code_of,
    refused,
)

pytestmark = pytest.mark.filterwarnings(WARNING)

DAY = 86_400


async def test_the_first_answer_is_replayed(stand_in, send):
    first = await send("e1", key="e1@1", timestamp=1)
    second = await send("e1", key="e1@1", timestamp=1)

    assert first.to_dict() == second.to_dict()
    assert "true" == second.last_response.headers["idempotent-replayed"]
    assert "idempotent-replayed" not in first.last_response.headers
    assert 1 == len(stand_in.events)


@pytest.fixture(autouse=True)
def past(stand_in):
    """Fixed timestamps, so that repeats have the same parameters."""
    stand_in.clock.set(1000.0)


@pytest.mark.parametrize(("kind", "applied"), [("error_before", 0), ("error_after", 1)])
async def test_a_500_is_replayed_too(stand_in, send, kind, applied):
    """Why every attempt needs a key of its own: this one fails for a day."""
    stand_in.faults.plan(kind)
    for replayed in (None, "true"):
        error = await refused(send("e1", key="e1@1", timestamp=1))
        assert (500, stripe.APIError) == (error.http_status, type(error))
        assert replayed == error.headers.get("idempotent-replayed")
        assert "false" == error.headers["stripe-should-retry"]
    assert applied == len(stand_in.events)

    # The next attempt, with its own key, learns the truth.
    if applied:
        assert "already exists" in str(await refused(send("e1", key="e1@2")))
    else:
        await send("e1", key="e1@2", timestamp=1)
    assert 1 == len(stand_in.events)


async def test_a_key_is_forgotten_after_24_hours(stand_in, send):
    stand_in.faults.plan("error_before")
    await refused(send("e1", key="e1@1", timestamp=1))
    stand_in.clock.advance(DAY - 1)
    await refused(send("e1", key="e1@1", timestamp=1))
    stand_in.clock.advance(1)
    await send("e1", key="e1@1", timestamp=1)

    assert 1 == len(stand_in.events)


async def test_a_key_with_other_parameters_is_refused(stand_in, send):
    await send("e1", 1, key="e1@1", timestamp=1)
    error = await refused(send("e1", 2, key="e1@1", timestamp=1))

    assert (400, stripe.IdempotencyError) == (error.http_status, type(error))
    assert [1] == list(stand_in.totals().values())


@pytest.mark.parametrize("kind", ["rate_limit", "conflict", "reset_before"])
async def test_what_never_ran_is_not_remembered(stand_in, send, kind):
    stand_in.faults.plan(kind)
    await refused(send("e1", key="e1@1", timestamp=1))
    await send("e1", key="e1@1", timestamp=1)

    assert 1 == len(stand_in.events)


async def test_a_failed_validation_is_not_remembered(stand_in, send):
    """The same key with right parameters then works."""
    await refused(send("e1", "x", key="e1@1", timestamp=1))
    await refused(send("e1", key="e1@1", timestamp="soon"))
    await send("e1", key="e1@1", timestamp=1)

    assert 1 == len(stand_in.events)


async def test_a_refusal_by_the_state_is_remembered(stand_in, send):
    """A duplicate is the answer of a call that ran."""
    await send("e1", key="e1@1", timestamp=1)
    for replayed in (None, "true"):
        error = await refused(send("e1", key="e1@2", timestamp=1))
        assert replayed == error.headers.get("idempotent-replayed")


async def test_an_answer_lost_on_the_way_is_replayed(stand_in, send):
    stand_in.faults.plan("reset_after")
    await refused(send("e1", key="e1@1", timestamp=1))
    assert 1 == len(stand_in.events)
    event = await send("e1", key="e1@1", timestamp=1)

    assert "true" == event.last_response.headers["idempotent-replayed"]


@pytest.mark.timed  # who stands still does not ask at once
async def test_a_key_in_use_is_a_409(stand_in, send):
    """And applies nothing, however often it happens."""
    stand_in.settings.latency_seconds = 0.3
    results = await asyncio.gather(
        *(send("e1", key="e1@1", timestamp=1) for _ in range(2)),
        return_exceptions=True,
    )
    errors = [it for it in results if isinstance(it, stripe.StripeError)]

    assert [(409, "idempotency_key_in_use")] == [
        (it.http_status, code_of(it)) for it in errors
    ]
    assert 1 == len(stand_in.events)


async def test_a_key_has_at_most_255_characters(send):
    await send("e1", key="k" * 255)
    error = await refused(send("e2", key="k" * 256))

    assert isinstance(error, stripe.IdempotencyError)


async def test_v2_runs_what_failed_again(stand_in, client, meter, customer):
    create = client.v2.billing.meter_events.create_async
    params = {
        "event_name": EVENT_NAME,
        "identifier": "e1",
        "payload": {"stripe_customer_id": customer, "value": "1"},
    }
    stand_in.faults.plan("error_before")
    error = await refused(create(params, {"idempotency_key": "k"}))
    assert 500 == error.http_status
    first = await create(params, {"idempotency_key": "k"})
    second = await create(params, {"idempotency_key": "k"})

    assert "idempotent-replayed" not in first.last_response.headers
    assert "true" == second.last_response.headers["idempotent-replayed"]
    assert 1 == len(stand_in.events)
