"""Faults: what the client sees, what was applied, and that a seed fixes them."""

import asyncio
import collections

import httpx
import pytest
import stripe

from tests.integration.stripe.sdk import WARNING, code_of, refused, sdk_client
from tests.stripe_stand_in.faults import KINDS, Faults

pytestmark = pytest.mark.filterwarnings(WARNING)


@pytest.mark.parametrize(
    ("kind", "status", "exception", "applied"),
    [
        ("rate_limit", 429, stripe.RateLimitError, 0),
        ("conflict", 409, stripe.APIError, 0),
        ("error_before", 500, stripe.APIError, 0),
        ("error_after", 500, stripe.APIError, 1),
        ("reset_before", None, stripe.APIConnectionError, 0),
        ("reset_after", None, stripe.APIConnectionError, 1),
    ],
)
async def test_what_a_fault_looks_like(
    stand_in, send, *, kind, status, exception, applied
):
    """The SDK keeps the status; no status at all is a broken connection."""
    stand_in.faults.plan(kind)
    error = await refused(send("e1"))

    assert (status, exception) == (error.http_status, type(error))
    assert applied == len(stand_in.events)
    assert {kind: 1} == stand_in.counts
    await refused(send("e1")) if applied else await send("e1")
    assert 1 == len(stand_in.events)


async def test_a_reset_is_a_read_error(stand_in, send):
    """Never a 500 of uvicorn's, nor an orderly end."""
    stand_in.faults.plan("reset_after")
    error = await refused(send("e1"))

    assert isinstance(error.__cause__, httpx.ReadError)


async def test_a_hang_applies_and_never_answers_in_time(stand_in, meter, customer):
    stand_in.settings.hang_seconds = 30
    stand_in.faults.plan("hang_after")
    async with sdk_client(stand_in.url, stand_in.api_key, patience=0.3) as client:
        error = await refused(
            client.v1.billing.meter_events.create_async(
                {
                    "event_name": "tollhouse_tokens",
                    "payload": {"stripe_customer_id": customer, "value": "1"},
                }
            )
        )

    assert isinstance(error, stripe.APIConnectionError)
    assert isinstance(error.__cause__, httpx.ReadTimeout)
    assert 1 == len(stand_in.events)


async def test_a_short_hang_is_only_slow(stand_in, send):
    stand_in.settings.hang_seconds = 0.05
    stand_in.faults.plan("hang_after")

    assert "e1" == (await send("e1")).identifier


async def test_the_sdk_retries_unless_told_not_to(stand_in, meter):
    """Our own shipper records every attempt, so the SDK must make none by itself."""
    for retries in (2, 0):
        for _ in range(retries + 1):
            stand_in.faults.plan("conflict")
        stand_in.calls.clear()
        async with sdk_client(
            stand_in.url, stand_in.api_key, retries=retries
        ) as client:
            await refused(client.v1.billing.meters.retrieve_async(meter))

        assert retries + 1 == len(stand_in.calls)


async def test_an_outage_resets_every_connection(stand_in, send):
    stand_in.outage()
    for identifier in ("e1", "e2"):
        error = await refused(send(identifier))
        assert isinstance(error, stripe.APIConnectionError)
    stand_in.end_outage()
    await send("e1")

    assert {"outage": 2, "accepted": 1} == stand_in.counts


async def test_an_outage_ends_by_itself(stand_in, send):
    stand_in.outage(0.2)
    async with asyncio.timeout(30):
        while not stand_in.events:
            await asyncio.gather(send("e1"), return_exceptions=True)

    assert stand_in.counts["outage"] > 0


async def test_a_fault_can_be_planned_for_one_event_or_path(stand_in, client, send):
    stand_in.faults.plan("conflict", on="e2")
    stand_in.faults.plan("rate_limit", on="/v1/prices")
    await send("e1")
    assert 409 == (await refused(send("e2"))).http_status
    error = await refused(client.v1.prices.list_async())
    assert (429, "rate_limit") == (error.http_status, code_of(error))
    assert "global-rate" == error.headers["stripe-rate-limited-reason"]
    await send("e2")

    with pytest.raises(ValueError, match="none of"):
        stand_in.faults.plan("fire")


def draws(order: list[str], seed: int, share: float):
    faults = Faults()
    drawn = collections.defaultdict(list)
    for subject in order:
        drawn[subject].append(faults.draw(subject, "/", seed=seed, share=share))
    return dict(drawn)


def test_the_seed_fixes_each_subjects_faults_whatever_the_order():
    """So a failing run of many clients can be run again."""
    subjects = [f"e{number}" for number in range(50)]
    forwards = [it for it in subjects for _ in range(4)]
    backwards = 4 * subjects[::-1]

    assert draws(forwards, 7, 0.4) == draws(backwards, 7, 0.4)
    assert draws(forwards, 7, 0.4) != draws(forwards, 8, 0.4)


def test_the_share_is_that_of_all_calls_and_every_kind_occurs():
    subjects = [f"e{number}" for number in range(2000)]
    drawn = collections.Counter(it for [it] in draws(subjects, 7, 0.4).values())

    assert 0.35 < 1 - drawn[None] / 2000 < 0.45
    assert {*KINDS, None} == set(drawn)
    assert {None} == {it for [it] in draws(subjects, 7, 0.0).values()}


async def test_faults_of_a_share_leave_a_ledger_that_a_patient_client_gets_right(
    stand_in, send
):
    """New key per attempt, same identifier, duplicates are deliveries: exactly once."""
    stand_in.settings.fault_share = 0.5
    stand_in.settings.hang_seconds = 0
    for number in range(30):
        for attempt in range(1, 30):
            try:
                await send(f"e{number}", 3, key=f"e{number}@{attempt}")
            except stripe.StripeError as error:
                if error.http_status != 400:
                    continue
            break

    assert 90 == sum(stand_in.totals().values())
    assert 30 == len(stand_in.events)
    assert stand_in.counts["duplicate"] > 0
    assert [] == stand_in.violations
