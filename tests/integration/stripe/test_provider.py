"""Stripe as the provider, one event a call: what is sent, what is made of answers."""

import asyncio
import logging

import pytest

from tests.integration.stripe.parts import (
    CUSTOMER,
    EVENT_NAME,
    answering,
    attempt,
    chain,
    stripe_account,
)
from tests.stripe_stand_in.stand_in import StandIn
from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.meter_events import MeterEvents
from tollhouse.adapters.stripe.secret import Secret
from tollhouse.core.chunk import Answer, Verdict
from tollhouse.core.problems import Unavailable

SECRET_KEY = "rk_live_51verySecretKeyOfOurs"


@pytest.fixture
async def provider(stand_in: StandIn):
    stand_in.add_customer(CUSTOMER)
    stand_in.add_meter(EVENT_NAME)
    async with stripe_account(stand_in, seconds=2.0) as client:
        yield MeterEvents(client)


async def test_a_chunk_as_it_is_sent(stand_in, provider):
    """The frozen bytes, under the attempt's own key."""
    sent = attempt(value=-12, number=3)

    assert await provider.ship([sent]) == [Answer(Verdict.ACCEPTED)]
    (event,) = stand_in.events
    assert event.payload == {"stripe_customer_id": CUSTOMER, "value": "-12"}
    assert event.identifier == sent.chunk.identifier
    assert event.timestamp == sent.chunk.timestamp
    assert event.event_name == EVENT_NAME
    (call,) = stand_in.calls
    assert call.idempotency_key == f"{sent.chunk.identifier}@3"
    assert stand_in.violations == []


@pytest.mark.parametrize(
    ("fault", "verdict", "is_applied"),
    [
        ("rate_limit", Verdict.REFUSED, False),
        ("conflict", Verdict.UNKNOWN, False),
        ("error_before", Verdict.UNKNOWN, False),
        ("error_after", Verdict.UNKNOWN, True),
        ("reset_before", Verdict.UNKNOWN, False),
        ("reset_after", Verdict.UNKNOWN, True),
        ("hang_after", Verdict.UNKNOWN, True),
    ],
)
async def test_each_fault_and_what_the_next_attempt_meets(
    stand_in, provider, fault, verdict, is_applied
):
    """One call an attempt; certain only where the fault leaves no doubt."""
    stand_in.faults.plan(fault)

    (answer,) = await provider.ship([attempt()])

    assert answer.verdict is verdict
    assert len(stand_in.calls) == 1
    assert len(stand_in.events) == is_applied
    (again,) = await provider.ship([attempt(number=2)])
    assert again.verdict is (Verdict.DUPLICATE if is_applied else Verdict.ACCEPTED)
    assert [event.value for event in stand_in.events] == [5]


async def test_a_stored_failure_is_not_met_twice(stand_in, provider):
    """Stripe repeats a 500 to the same key for a day: each attempt has its own."""
    stand_in.faults.plan("error_before")
    first = await provider.ship([attempt()])
    repeated = await provider.ship([attempt()])
    second = await provider.ship([attempt(number=2)])

    assert [first, repeated] == [[Answer(Verdict.UNKNOWN, "api_error")]] * 2
    assert second == [Answer(Verdict.ACCEPTED)]


@pytest.mark.timed  # who stands still does not ask at once
async def test_one_call_at_a_time_per_customer_and_meter(stand_in, provider):
    """The second one of two at once was certainly not taken."""
    stand_in.settings.latency_seconds = 0.1

    answers = await asyncio.gather(
        provider.ship([attempt(1)]), provider.ship([attempt(2)])
    )

    assert {answer for (answer,) in answers} == {
        Answer(Verdict.ACCEPTED),
        Answer(Verdict.REFUSED, "lock_timeout"),
    }


async def test_events_that_are_to_blame(stand_in, provider):
    """Parked with Stripe's code; the next chunk is not touched by it."""
    odd = attempt(1, event_name="tollhouse.none.output")
    (nowhere,) = await provider.ship([odd])
    stand_in.clock.advance(36 * 86_400)
    (old,) = await provider.ship([attempt(2)])

    assert nowhere == Answer(Verdict.POISON, "no_meter")
    assert old == Answer(Verdict.POISON, "timestamp_too_far_in_past")
    assert stand_in.events == []


async def test_a_chunk_of_another_value_under_a_used_key(stand_in, provider):
    """Our state went backwards: that must not look like a delivery."""
    await provider.ship([attempt(value=5)])

    (answer,) = await provider.ship([attempt(value=6)])

    assert answer == Answer(Verdict.CONFLICT, "idempotency_error")


async def test_nobody_there(free_port):
    """Nothing was sent, so nothing is in doubt."""
    client = Client(Secret(SECRET_KEY), url=f"http://127.0.0.1:{free_port()}")

    assert await MeterEvents(client).ship([attempt()]) == [
        Answer(Verdict.REFUSED, "no_connection")
    ]
    await client.close()


def http(status: int, body: bytes, *, claimed: int | None = None) -> bytes:
    length = len(body) if claimed is None else claimed
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, length, body)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "connection_lost"),
        (b"nonsense\r\n\r\n", "connection_lost"),
        (http(200, b'{"object"', claimed=500), "connection_lost"),
        (http(200, b"<html>Welcome to the hotel</html>"), "unreadable"),
        (http(200, b"[]"), "unreadable"),
        (http(200, b"{}"), "unreadable"),
        (http(200, b'{"identifier": "another"}'), "unreadable"),
        (http(200, b'{"identifier": {"a": []}}'), "unreadable"),
        (http(200, b" " * (9 << 20)), "unreadable"),
        (http(302, b"{}"), "http_302"),
        (http(403, b"<html>Blocked by policy</html>"), "http_403"),
        (http(502, b"<html>Bad gateway</html>"), "http_502"),
    ],
)
async def test_answers_that_are_not_stripe_s(answer, code):
    """Whoever said it: Stripe may have the event or not."""
    async with answering(answer) as url:
        client = Client(Secret(SECRET_KEY), url=url)
        found = await MeterEvents(client).ship([attempt()])
        await client.close()

    assert found == [Answer(Verdict.UNKNOWN, code)]


@pytest.mark.parametrize("key", [SECRET_KEY, "rk_test_restricted"])
async def test_a_refused_key_stops_everything_and_leaks_nothing(
    stand_in, provider, key, caplog, capfd
):
    """Stripe's answer has a part of the key in it; nothing of ours has."""
    caplog.set_level(logging.DEBUG)
    async with stripe_account(stand_in, key=key) as client:
        refused = MeterEvents(client)
        for call in (
            refused.ship([attempt()]),
            refused.total(CUSTOMER, EVENT_NAME, 0, 60),
        ):
            with pytest.raises(Unavailable, match="refuses our API key") as raised:
                await call
            assert not raised.value.transient
            assert key[-4:] not in chain(raised.value)
            assert "provided" not in chain(raised.value).lower()

    printed = capfd.readouterr()
    assert key[-4:] not in caplog.text + printed.out + printed.err
    assert stand_in.events == []


async def test_nothing_is_logged_of_a_call(stand_in, provider, caplog, capfd):
    """The SDK and its HTTP client log texts and whole requests, if they are let."""
    caplog.set_level(logging.DEBUG)
    await provider.ship([attempt()])
    await provider.ship([attempt(2, event_name="tollhouse.none.output")])

    printed = capfd.readouterr()
    ours = [it for it in caplog.records if it.name.startswith(("stripe", "http"))]
    assert ours == []
    assert (printed.out, printed.err) == ("", "")


async def test_a_total(stand_in, provider):
    """The minute of a chunk answers for it alone; the meter is looked up once."""
    first, second = attempt(1, value=40), attempt(2, value=-2)
    for one in (first, second):
        await provider.ship([one])
    start = first.chunk.timestamp

    totals = [
        await provider.total(CUSTOMER, EVENT_NAME, start, start + 60),
        await provider.total(CUSTOMER, EVENT_NAME, start + 60, start + 120),
        await provider.total(CUSTOMER, EVENT_NAME, start + 120, start + 180),
        await provider.total(CUSTOMER, EVENT_NAME, start, start + 3600),
    ]

    assert totals == [40, -2, 0, 38]
    paths = [call.path for call in stand_in.calls]
    assert paths.count("/v1/billing/meters") == 1
    stand_in.settings.empty_summaries = False
    assert await provider.total(CUSTOMER, EVENT_NAME, start + 120, start + 180) == 0


async def test_a_total_of_a_meter_behind_a_hundred_others(stand_in, provider):
    """Lists come by pages."""
    for number in range(120):
        stand_in.add_meter(f"other.{number}")
    await provider.ship([attempt(value=7)])
    start = attempt().chunk.timestamp

    assert await provider.total(CUSTOMER, EVENT_NAME, start, start + 60) == 7
    paths = [call.path for call in stand_in.calls]
    assert paths.count("/v1/billing/meters") == 2


async def test_a_total_of_a_meter_that_is_not_at_work(stand_in, provider):
    """It says which and what to do; once it is there, it is found."""
    stand_in.catalog.change_meter(
        stand_in.add_meter("tollhouse.old.output"), active=False
    )
    for name, what in (
        ("tollhouse.old.output", "archived"),
        ("tollhouse.new.output", "missing"),
    ):
        with pytest.raises(Unavailable, match=f"{name} is {what}") as raised:
            await provider.total(CUSTOMER, name, 0, 60)
        assert not raised.value.transient

    stand_in.add_meter("tollhouse.new.output")
    assert await provider.total(CUSTOMER, "tollhouse.new.output", 0, 60) == 0


@pytest.mark.parametrize("fault", ["rate_limit", "error_before", "reset_before"])
async def test_a_total_that_does_not_come(stand_in, provider, fault):
    """No total is not a total of nothing."""
    await provider.total(CUSTOMER, EVENT_NAME, 0, 60)
    stand_in.faults.plan(fault)

    with pytest.raises(Unavailable) as raised:
        await provider.total(CUSTOMER, EVENT_NAME, 0, 60)
    assert raised.value.transient


async def test_totals_that_are_none():
    """A server in between that answers 200 to everything."""
    for answer in (b"{}", b'{"object": "list", "data": [{}], "has_more": false}'):
        async with answering(http(200, answer)) as url:
            client = Client(Secret(SECRET_KEY), url=url)
            with pytest.raises(Unavailable):
                await MeterEvents(client).total(CUSTOMER, EVENT_NAME, 0, 60)
            await client.close()
