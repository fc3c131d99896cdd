"""v2: single events, the stream with its session, thin events and their webhook."""

import asyncio
import json
import time
from typing import Any

import pytest
import stripe
from stripe.events import (
    V1BillingMeterErrorReportTriggeredEvent,
    V1BillingMeterErrorReportTriggeredEventNotification,
    V1BillingMeterNoMeterFoundEventNotification,
)

from tests.integration.stripe.receiver import receiving
from tests.integration.stripe.sdk import EVENT_NAME, WARNING, refused, sdk_client

pytestmark = pytest.mark.filterwarnings(WARNING)

DAY = 86_400
SECRET = "whsec_of_the_test"


def event(identifier: str, value: object = "1", **other) -> Any:
    payload = {"stripe_customer_id": "cus_a", "value": str(value)}
    params = {"event_name": EVENT_NAME, "identifier": identifier, "payload": payload}
    return {**params, **other}


@pytest.fixture
async def stream(stand_in, client, meter, customer):
    """Return a function that sends events by the stream, in one session."""
    session = await client.v2.billing.meter_event_session.create_async()
    token = session.authentication_token
    async with sdk_client(stand_in.url, token) as of_session:

        async def send(*events):
            create = of_session.v2.billing.meter_event_stream.create_async
            return await create({"events": list(events)})

        yield send


async def test_a_single_event_is_checked_at_once(stand_in, client, meter, customer):
    create = client.v2.billing.meter_events.create_async
    at = "2026-11-28T03:00:00Z"
    stand_in.clock.set(1_795_834_800.0)
    made = await create(event("e1", 5, timestamp=at))

    assert ("e1", "2026-11-28T03:00:00.000Z") == (made.identifier, made.timestamp)
    assert {("cus_a", EVENT_NAME, 1_795_834_800 // 3600): 5} == stand_in.totals()
    error = await refused(create(event("e1", 5)))
    assert (400, "duplicate_meter_event") == (error.http_status, error.code)
    for wrong, code in (
        ({"event_name": "nobodys"}, "no_meter"),
        ({"timestamp": "2026-11-28T03:06:00Z"}, "timestamp_in_future"),
        ({"timestamp": "soon"}, "parameter_invalid_timestamp"),
        (
            {"payload": {"stripe_customer_id": "cus_none", "value": "1"}},
            "meter_event_customer_not_found",
        ),
    ):
        error = await refused(create(event("e2", **wrong)))
        assert (400, code) == (error.http_status, error.code)


async def test_the_stream_takes_a_hundred_events_a_call(stand_in, stream):
    assert await stream(*(event(f"e{number}") for number in range(100))) is None
    assert 100 == sum(stand_in.totals().values())
    for events in ([], [event(f"f{number}") for number in range(101)]):
        assert 400 == (await refused(stream(*events))).http_status


async def test_the_stream_drops_duplicates_without_a_word(stand_in, stream, send):
    await send("e1", 5)
    await stream(event("e1", 5), event("e2", 7), event("e2", 7))

    assert 12 == sum(stand_in.totals().values())
    stand_in.clock.advance(DAY - 1)
    async with sdk_client(stand_in.url, stand_in.api_key) as client:
        session = await client.v2.billing.meter_event_session.create_async()
    async with sdk_client(stand_in.url, session.authentication_token) as later:
        create = later.v2.billing.meter_event_stream.create_async
        await create({"events": [event("e1", 5)]})
        assert 12 == sum(stand_in.totals().values())
        stand_in.clock.advance(1)
        await create({"events": [event("e1", 5)]})
    assert 17 == sum(stand_in.totals().values())


async def test_a_session_ends_after_15_minutes(stand_in, client, stream):
    """By the stand-in's clock; the SDK has an exception of its own for it."""
    session = await client.v2.billing.meter_event_session.create_async()
    assert session.created < session.expires_at
    stand_in.clock.advance(15 * 60 - 1)
    await stream(event("e1"))
    stand_in.clock.advance(1)
    error = await refused(stream(event("e2")))

    assert isinstance(error, stripe.TemporarySessionExpiredError)
    assert (401, "billing_meter_event_session_expired") == (
        error.http_status,
        error.code,
    )
    assert 1 == len(stand_in.events)


async def test_only_a_sessions_token_opens_the_stream(client, stand_in, stream):
    create = client.v2.billing.meter_event_stream.create_async
    assert 401 == (await refused(create({"events": [event("e1")]}))).http_status
    token = next(iter(stand_in.sessions))
    async with sdk_client(stand_in.url, token) as of_session:
        error = await refused(of_session.v1.billing.meters.list_async())
        assert isinstance(error, stripe.AuthenticationError)


async def test_a_429_of_v2_is_the_same_exception(stand_in, client, meter, customer):
    stand_in.faults.plan("rate_limit")
    error = await refused(client.v2.billing.meter_events.create_async(event("e1")))

    assert isinstance(error, stripe.RateLimitError)
    assert (429, "rate_limit") == (error.http_status, error.code)


async def test_a_bad_event_of_the_stream_becomes_a_signed_thin_event(
    stand_in, client, stream, meter
):
    """The one way to learn of it: verified, then fetched in full, by the SDK."""
    async with receiving() as received:
        stand_in.settings.webhook_url = received.url
        stand_in.settings.webhook_secret = SECRET
        await stream(
            event("good"),
            event("bad", "many"),
            event("worse", "1" * 16),
            event("worst", "1" * 16),
        )
        await stand_in.reports_sent()

    [(body, header)] = received.posts
    notification = client.parse_event_notification(body, header, SECRET)
    assert "v1.billing.meter.error_report_triggered" == notification.type
    assert "data" not in json.loads(body)
    assert meter == notification.related_object.id
    full = await client.v2.core.events.retrieve_async(notification.id)
    assert isinstance(full, V1BillingMeterErrorReportTriggeredEvent)
    reason = full.data.reason
    assert 3 == reason.error_count
    assert {
        "meter_event_invalid_value": 1,
        "meter_event_value_too_many_digits": 2,
    } == {it.code: it.error_count for it in reason.error_types}
    assert 1 == sum(stand_in.totals().values())


async def test_a_sample_names_the_requests_idempotency_key(stand_in, client, send):
    """How a chunk is found again: its key begins with its identifier."""
    payload = {"stripe_customer_id": "cus_none", "value": "1"}
    await send("e1", key="e1@3", payload=payload)
    await stand_in.reports_sent()

    [full] = stand_in.thin_events
    [kind] = full["data"]["reason"]["error_types"]
    assert "meter_event_customer_not_found" == kind["code"]
    [sample] = kind["sample_errors"]
    assert {"identifier": "e1@3"} == sample["request"]
    assert "No such customer: 'cus_none'" == sample["error_message"]


async def test_an_unknown_meter_has_a_thin_event_of_its_own(stand_in, client, stream):
    async with receiving() as received:
        stand_in.settings.webhook_url = received.url
        await stream(event("e1", event_name="nobodys"), event("e2", event_name="no"))
        await stand_in.reports_sent()

    [(body, header)] = received.posts
    notification = client.parse_event_notification(body, header, "whsec_standin")
    assert isinstance(notification, V1BillingMeterNoMeterFoundEventNotification)
    full = await client.v2.core.events.retrieve_async(notification.id)
    assert ["no_meter"] == [it.code for it in full.data.reason.error_types]
    assert 2 == full.data.reason.error_count


async def test_the_sdk_refuses_forged_old_and_snapshot_events(stand_in, client, stream):
    """What our own endpoint relies on."""
    async with receiving() as received:
        stand_in.settings.webhook_url = received.url
        await stream(event("bad", "many"))
        await stand_in.reports_sent()
    [(body, header)] = received.posts
    parse = client.parse_event_notification
    old = stripe.WebhookSignature.generate_signature_header(
        body.decode(), "whsec_standin", int(time.time()) - 301
    )
    for wrong in (
        (body, header, "whsec_other"),
        (body.replace(b"false", b"true"), header, "whsec_standin"),
        (body, old, "whsec_standin"),
        (body, None, "whsec_standin"),
        (body, "nonsense", "whsec_standin"),
    ):
        with pytest.raises(stripe.SignatureVerificationError):
            parse(*wrong)
    assert (
        parse(body, old, "whsec_standin", 400).id
        == parse(body, header, "whsec_standin").id
    )
    with pytest.raises(ValueError, match="thin event notification"):
        client.construct_event(body, header, "whsec_standin")


async def test_a_webhook_that_fails_is_tried_again(stand_in, stream):
    async with receiving(statuses=[500, 200]) as received:
        stand_in.settings.webhook_url = received.url
        await stream(event("bad", "many"))
        await stand_in.reports_sent()

    assert [500, 200] == [it.status for it in stand_in.deliveries]
    assert received.posts[0][0] == received.posts[1][0]


async def test_the_notification_fetches_its_event_and_meter(stand_in, stream, meter):
    """By the synchronous SDK: fetch_event_async of 16.1 also sends a `usage`."""
    async with receiving() as received:
        stand_in.settings.webhook_url = received.url
        await stream(event("bad", "many"))
        await stand_in.reports_sent()
    [(body, header)] = received.posts
    client = stripe.StripeClient(
        stand_in.api_key,
        base_addresses={"api": stand_in.url},
        http_client=stripe.HTTPXClient(allow_sync_methods=True, verify_ssl_certs=False),
    )

    def fetch() -> tuple[str, str]:
        notification = client.parse_event_notification(body, header, "whsec_standin")
        assert isinstance(
            notification, V1BillingMeterErrorReportTriggeredEventNotification
        )
        related = notification.fetch_related_object()
        return notification.fetch_event().id, related.id

    try:
        fetched = await asyncio.to_thread(fetch)
    finally:
        client._requestor._get_http_client().close()
    assert (stand_in.thin_events[0]["id"], meter) == fetched


async def test_an_event_nobody_made_is_a_404(client):
    error = await refused(client.v2.core.events.retrieve_async("evt_none"))

    assert 404 == error.http_status


async def test_a_client_that_does_not_wait_is_no_exception(stand_in, stream):
    """Cancelled calls are applied: what asyncio.timeout leaves behind is in doubt."""
    stand_in.settings.hang_seconds = 30
    stand_in.faults.plan("hang_after")
    task = asyncio.create_task(stream(event("e1")))
    async with asyncio.timeout(30):
        while not stand_in.events:
            await asyncio.wait([task], timeout=0.01)
    task.cancel()
    await asyncio.wait([task])

    assert {"e1"} == {it.identifier for it in stand_in.events}
