"""Meter events of v1: what is taken, what is refused, what is forgotten."""

import asyncio
import time

import pytest
import stripe

from tests.integration.stripe.sdk import (
    EVENT_NAME,
    WARNING,
    code_of,
    refused,
    sdk_client,
)

pytestmark = pytest.mark.filterwarnings(WARNING)

DAY = 86_400


async def test_an_event_counts_once_it_is_taken(stand_in, send, customer):
    now = int(time.time())
    event = await send("e1", 12, timestamp=now)

    assert ("e1", EVENT_NAME, now) == (
        event.identifier,
        event.event_name,
        event.timestamp,
    )
    assert {"stripe_customer_id": customer, "value": "12"} == event.payload.to_dict()
    assert {(customer, EVENT_NAME, now // 3600): 12} == stand_in.totals()
    assert [] == stand_in.violations
    assert 1 == stand_in.counts["accepted"]


async def test_an_identifier_of_the_last_24_hours_is_refused(stand_in, send):
    """What makes a resend safe; the client must know it by message and header."""
    await send("e1", 12)
    stand_in.clock.advance(DAY - 1)
    error = await refused(send("e1", 12))

    assert (400, stripe.InvalidRequestError) == (error.http_status, type(error))
    assert "An event already exists with identifier e1." == error.user_message
    assert "false" == error.headers["stripe-should-retry"]
    assert error.code is None
    assert [12] == [event.value for event in stand_in.events]
    assert 1 == stand_in.counts["duplicate"]


async def test_an_identifier_is_forgotten_after_24_hours(stand_in, send):
    """A resend then bills twice, as the real one may: the promise is 24 hours."""
    await send("e1", 12)
    stand_in.clock.advance(DAY)
    await send("e1", 12)

    assert 24 == sum(stand_in.totals().values())


async def test_without_an_identifier_each_event_has_one(stand_in, client, send):
    payload = {"stripe_customer_id": "cus_a", "value": "1"}
    for _ in range(2):
        await client.v1.billing.meter_events.create_async(
            {"event_name": EVENT_NAME, "payload": payload}
        )

    assert 2 == len({event.identifier for event in stand_in.events})


@pytest.mark.parametrize("length", [1, 100])
async def test_an_identifier_has_up_to_100_characters(send, length):
    assert length == len((await send("x" * length)).identifier)


@pytest.mark.parametrize("identifier", ["", "x" * 101])
async def test_longer_or_empty_identifiers_are_refused(stand_in, send, identifier):
    error = await refused(send(identifier))

    assert (400, "identifier") == (error.http_status, error.param)
    assert [] == stand_in.events


@pytest.mark.parametrize("value", [0, -7, 999_999_999_999_999, -999_999_999_999_999])
async def test_whole_numbers_count(stand_in, send, value):
    """Negative ones too: they are corrections."""
    await send("e1", value)

    assert [value] == list(stand_in.totals().values())


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("1.5", "meter_event_invalid_value"),
        ("many", "meter_event_invalid_value"),
        ("", "meter_event_invalid_value"),
        ("1e3", "meter_event_invalid_value"),
        ("1000000000000000", "meter_event_value_too_many_digits"),
    ],
)
async def test_other_values_are_refused(stand_in, send, value, code):
    error = await refused(send("e1", value))

    assert (400, code, "payload[value]") == (
        error.http_status,
        error.code,
        error.param,
    )
    assert {} == stand_in.totals()


@pytest.mark.parametrize("age", [-290, 0, 35 * DAY - 10])
async def test_timestamps_from_35_days_ago_to_5_minutes_ahead_count(send, age):
    at = int(time.time()) - age

    assert at == (await send("e1", timestamp=at)).timestamp


@pytest.mark.parametrize(
    ("age", "code"),
    [(-310, "timestamp_in_future"), (35 * DAY + 10, "timestamp_too_far_in_past")],
)
async def test_other_timestamps_are_refused(stand_in, send, age, code):
    error = await refused(send("e1", timestamp=int(time.time()) - age))

    assert (400, code) == (error.http_status, error.code)
    assert [] == stand_in.events


async def test_the_range_follows_the_stand_ins_clock(stand_in, send):
    stand_in.clock.advance(36 * DAY)
    error = await refused(send("e1", timestamp=int(time.time())))

    assert "timestamp_too_far_in_past" == error.code


async def test_an_unknown_meter_is_refused_at_once(stand_in, send):
    """Users report this 400; it is a switch, see the next one."""
    error = await refused(send("e1", event_name="nobodys"))

    assert 'No active meter found for event name "nobodys".' == error.user_message
    assert (400, "no_meter") == (error.http_status, error.code)


async def test_an_archived_meter_takes_nothing(stand_in, client, send, meter):
    await client.v1.billing.meters.deactivate_async(meter)
    assert "archived_meter" == (await refused(send("e1"))).code
    await client.v1.billing.meters.reactivate_async(meter)
    await send("e1")


async def test_flaws_checked_later_are_taken_and_never_count(stand_in, send):
    """The switch: an answer of 200 is then no proof that usage is billed."""
    stand_in.settings.checked_later = {"no_meter"}
    await send("e1", event_name="nobodys")

    assert [False] == [event.counted for event in stand_in.events]
    assert {} == stand_in.totals()
    error = await refused(send("e1", event_name="nobodys"))
    assert "already exists" in str(error)


async def test_a_customer_nobody_knows_is_found_later_by_default(stand_in, send):
    payload = {"stripe_customer_id": "cus_none", "value": "1"}
    await send("e1", payload=payload)
    assert {} == stand_in.totals()

    stand_in.settings.checked_later = set()
    error = await refused(send("e2", payload=payload))
    assert "meter_event_customer_not_found" == error.code


async def test_a_deleted_customer_is_none(stand_in, client, send, customer):
    await client.v1.customers.delete_async(customer)
    stand_in.settings.checked_later = set()

    assert "meter_event_customer_not_found" == (await refused(send("e1"))).code


async def test_a_meter_says_which_keys_of_the_payload_it_reads(stand_in, client):
    stand_in.add_customer("cus_a")
    await client.v1.billing.meters.create_async(
        {
            "display_name": "own keys",
            "event_name": "own_keys",
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"event_payload_key": "who", "type": "by_id"},
            "value_settings": {"event_payload_key": "tokens"},
        }
    )
    create = client.v1.billing.meter_events.create_async
    payload = {"who": "cus_a", "tokens": "3"}
    await create({"event_name": "own_keys", "payload": payload})
    assert [3] == list(stand_in.totals().values())

    payload = {"stripe_customer_id": "cus_a", "tokens": "3"}
    error = await refused(create({"event_name": "own_keys", "payload": payload}))
    assert "meter_event_no_customer_defined" == error.code


@pytest.mark.timed  # who stands still does not ask at once
async def test_one_call_at_a_time_per_customer_and_meter(stand_in, send):
    """The second one gets a 429 that may be retried, and was not applied."""
    stand_in.settings.latency_seconds = 0.5
    results = await asyncio.gather(send("e1"), send("e2"), return_exceptions=True)
    errors = [it for it in results if isinstance(it, stripe.RateLimitError)]

    assert [(429, "lock_timeout")] == [(it.http_status, code_of(it)) for it in errors]
    assert errors[0].headers is not None
    assert "true" == errors[0].headers["stripe-should-retry"]
    assert 1 == len(stand_in.events)
    assert {("cus_a", EVENT_NAME): 2} == stand_in.max_concurrency


async def test_other_customers_and_meters_are_not_in_the_way(stand_in, send):
    stand_in.settings.latency_seconds = 0.2
    stand_in.add_customer("cus_b")
    stand_in.add_meter("other")
    await asyncio.gather(
        send("e1"),
        send("e2", payload={"stripe_customer_id": "cus_b", "value": "1"}),
        send("e3", event_name="other"),
    )

    assert {1} == set(stand_in.max_concurrency.values())
    assert 3 == len(stand_in.events)


@pytest.mark.parametrize(
    ("key", "status", "kind"),
    [
        ("rk_test_nobodys", 401, stripe.AuthenticationError),
        ("rk_test_restricted", 403, stripe.PermissionError),
    ],
)
async def test_a_wrong_key_is_no_events_fault(stand_in, meter, key, status, kind):
    async with sdk_client(stand_in.url, key) as client:
        error = await refused(client.v1.billing.meters.retrieve_async(meter))

    assert (status, kind) == (error.http_status, type(error))


async def test_a_restricted_key_may_do_what_it_was_given(stand_in, meter):
    stand_in.settings.restricted_keys = {"rk_test_meters": ("/v1/billing/",)}
    async with sdk_client(stand_in.url, "rk_test_meters") as client:
        await client.v1.billing.meters.retrieve_async(meter)
        error = await refused(client.v1.prices.list_async())

    assert 403 == error.http_status


async def test_more_calls_a_second_than_allowed_get_a_429(stand_in, send):
    stand_in.settings.calls_per_second = 3
    results = await asyncio.gather(
        *(send(f"e{number}") for number in range(5)), return_exceptions=True
    )
    errors = [it for it in results if isinstance(it, stripe.RateLimitError)]

    assert ["rate_limit"] * 2 == [code_of(it) for it in errors]
    assert 5 == stand_in.highest_rate
    assert 3 == len(stand_in.events)


async def test_cancelling_an_event_takes_it_out(stand_in, client, send):
    await send("e1", 5)
    await send("e2", 7)
    cancel = client.v1.billing.meter_event_adjustments.create_async
    adjustment = await cancel(
        {"event_name": EVENT_NAME, "type": "cancel", "cancel": {"identifier": "e1"}}
    )

    assert "pending" == adjustment.status
    assert [7] == list(stand_in.totals().values())


@pytest.mark.parametrize(
    ("event_name", "identifier", "later"),
    [(EVENT_NAME, "e2", 0), ("other", "e1", 0), (EVENT_NAME, "e1", DAY)],
)
async def test_only_a_known_event_of_24_hours_can_be_cancelled(
    stand_in, client, send, *, event_name, identifier, later
):
    await send("e1", 5)
    stand_in.clock.advance(later)
    cancel = client.v1.billing.meter_event_adjustments.create_async
    error = await refused(
        cancel(
            {
                "event_name": event_name,
                "type": "cancel",
                "cancel": {"identifier": identifier},
            }
        )
    )

    assert 400 == error.http_status
    assert [5] == list(stand_in.totals().values())
