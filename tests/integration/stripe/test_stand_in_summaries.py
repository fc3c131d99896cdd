"""Event summaries: which minutes, which formula, and when an event shows."""

import pytest

from tests.integration.stripe.sdk import EVENT_NAME, WARNING, refused

pytestmark = pytest.mark.filterwarnings(WARNING)

HOUR = 3600
DAY = 24 * HOUR
START = 20_000 * DAY


@pytest.fixture(autouse=True)
def then(stand_in):
    """Let it be the third day after START."""
    stand_in.clock.set(START + 3 * DAY)


@pytest.fixture
def read(client, meter, customer):
    """Return a function that reads one page of summaries as (start, end, value)."""

    async def read(start: int, end: int, **other):
        params = {"customer": customer, "start_time": start, "end_time": end, **other}
        page = await client.v1.billing.meters.event_summaries.list_async(meter, params)
        return [(it.start_time, it.end_time, it.aggregated_value) for it in page.data]

    return read


async def test_a_minute_answers_for_its_own_events(send, read):
    """What verifies one chunk: start is in the range, end is not."""
    await send("e1", 5, timestamp=START)
    await send("e2", 7, timestamp=START + 59)
    await send("e3", 100, timestamp=START + 60)
    await send("e4", 100, timestamp=START - 1)

    assert [(START, START + 60, 12)] == await read(START, START + 60)


async def test_other_customers_and_meters_are_not_in_it(stand_in, send, read):
    stand_in.add_customer("cus_b")
    stand_in.add_meter("other")
    payload = {"stripe_customer_id": "cus_b", "value": "9"}
    await send("e1", 5, timestamp=START)
    await send("e2", timestamp=START, payload=payload)
    await send("e3", 9, timestamp=START, event_name="other")

    assert [(START, START + HOUR, 5)] == await read(START, START + HOUR)


async def test_windows_of_hours_and_days_come_newest_first(send, read):
    await send("e1", 5, timestamp=START + 10)
    await send("e2", 7, timestamp=START + 2 * HOUR)
    await send("e3", 9, timestamp=START + DAY)
    hours = await read(START, START + DAY, value_grouping_window="hour")
    days = await read(START, START + 2 * DAY, value_grouping_window="day")

    assert [
        (START + 2 * HOUR, START + 3 * HOUR, 7),
        (START, START + HOUR, 5),
    ] == hours
    assert [(START + DAY, START + 2 * DAY, 9), (START, START + DAY, 12)] == days


async def test_summaries_come_in_pages(client, send, meter, customer):
    for number in range(3):
        await send(f"e{number}", timestamp=START + number * HOUR)
    page = await client.v1.billing.meters.event_summaries.list_async(
        meter,
        {
            "customer": customer,
            "start_time": START,
            "end_time": START + DAY,
            "value_grouping_window": "hour",
            "limit": 2,
        },
    )

    assert page.has_more
    assert 3 == len([it async for it in page.auto_paging_iter()])


@pytest.mark.parametrize(
    ("start", "end", "grouping"),
    [
        (START + 1, START + 60, None),
        (START, START + 61, None),
        (START + 60, START + HOUR, "hour"),
        (START, START + HOUR, "day"),
        (START, START, None),
        (START, START + HOUR, "week"),
    ],
)
async def test_times_must_be_aligned(read, start, end, grouping):
    other = {} if grouping is None else {"value_grouping_window": grouping}
    error = await refused(read(start, end, **other))

    assert 400 == error.http_status


async def test_an_event_shows_after_the_delay(stand_in, send, read):
    """Eventually consistent: an empty answer does not prove that nothing was taken."""
    stand_in.settings.summary_delay_seconds = 120
    await send("e1", 5, timestamp=START)
    assert [] == await read(START, START + 60)
    stand_in.clock.advance(119)
    assert [] == await read(START, START + 60)
    stand_in.clock.advance(1)

    assert [(START, START + 60, 5)] == await read(START, START + 60)


@pytest.mark.parametrize(
    ("empty", "expected"), [(True, []), (False, [(START, START + 60, 0)])]
)
async def test_nothing_used_is_nothing_or_a_zero(stand_in, read, empty, expected):
    """Not documented, so a switch: a client must read both alike."""
    stand_in.settings.empty_summaries = empty

    assert expected == await read(START, START + 60)


async def test_an_event_sent_again_after_24_hours_shows_twice(stand_in, send, read):
    await send("e1", 5, timestamp=START)
    stand_in.clock.advance(DAY)
    await send("e1", 5, timestamp=START)

    assert [(START, START + 60, 10)] == await read(START, START + 60)


async def test_cancelled_and_flawed_events_do_not_show(stand_in, client, send, read):
    stand_in.settings.checked_later = {"meter_event_invalid_value"}
    await send("e1", 5, timestamp=START)
    await send("e2", 7, timestamp=START)
    await send("e3", "many", timestamp=START)
    cancel = client.v1.billing.meter_event_adjustments.create_async
    await cancel(
        {"event_name": EVENT_NAME, "type": "cancel", "cancel": {"identifier": "e1"}}
    )

    assert [(START, START + 60, 7)] == await read(START, START + 60)


@pytest.mark.parametrize(("formula", "expected"), [("count", 2), ("last", 5)])
async def test_other_formulas(stand_in, client, send, customer, *, formula, expected):
    meter = stand_in.add_meter("other", formula)
    await send("e1", 5, timestamp=START + 30, event_name="other")
    await send("e2", 7, timestamp=START, event_name="other")
    page = await client.v1.billing.meters.event_summaries.list_async(
        meter, {"customer": customer, "start_time": START, "end_time": START + 60}
    )

    assert [expected] == [it.aggregated_value for it in page.data]


async def test_a_meter_with_a_window_keeps_the_newest_event_of_each(
    client, send, customer
):
    """For absolute totals: what comes last replaces what came before."""
    meter = await client.v1.billing.meters.create_async(
        {
            "display_name": "totals",
            "event_name": "totals",
            "default_aggregation": {"formula": "sum"},
            "event_time_window": "hour",
        }
    )
    await send("e1", 5, timestamp=START, event_name="totals")
    await send("e2", 7, timestamp=START, event_name="totals")
    await send("e3", 9, timestamp=START + HOUR, event_name="totals")
    page = await client.v1.billing.meters.event_summaries.list_async(
        meter.id, {"customer": customer, "start_time": START, "end_time": START + DAY}
    )

    assert [16] == [it.aggregated_value for it in page.data]


async def test_a_customer_nobody_knows_has_no_summary(client, meter):
    error = await refused(
        client.v1.billing.meters.event_summaries.list_async(
            meter, {"customer": "cus_none", "start_time": 0, "end_time": 60}
        )
    )

    assert (400, "resource_missing") == (error.http_status, error.code)
