"""The stand-in as a process: killed, restarted, and asked from outside."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
import stripe

from tests.integration.stripe.sdk import EVENT_NAME, WARNING, refused, sdk_client
from tests.stripe_stand_in.journal import Journal
from tests.stripe_stand_in.process import StandInProcess
from tests.stripe_stand_in.server import running_stand_in
from tests.stripe_stand_in.stand_in import StandIn

pytestmark = pytest.mark.filterwarnings(WARNING)

DAY = 86_400


@pytest.fixture
def process(tmp_path):
    process = StandInProcess(tmp_path, settings={"hang_seconds": 1})
    process.start()
    yield process
    process.kill()


def event(identifier: str, timestamp: int, value: int = 5) -> Any:
    payload = {"stripe_customer_id": "cus_a", "value": str(value)}
    return {
        "event_name": EVENT_NAME,
        "identifier": identifier,
        "payload": payload,
        "timestamp": timestamp,
    }


async def test_what_was_taken_outlives_a_kill(process):
    """Identifiers, stored answers, objects and the clock: a crash test needs all."""
    process.add_meter(EVENT_NAME)
    process.add_customer("cus_a")
    now = int(process.advance(3 * DAY))
    process.plan("error_after", on="e2")
    process.plan("reset_after", on="e3")
    async with sdk_client(process.url, "rk_test_standin") as client:
        create = client.v1.billing.meter_events.create_async
        await create(event("e1", now))
        await refused(create(event("e2", now, 7), {"idempotency_key": "e2@1"}))
        await refused(create(event("e3", now, 9), {"idempotency_key": "e3@1"}))
    process.kill()
    hour = now // 3600
    assert {("cus_a", EVENT_NAME, hour): 21} == process.totals()
    async with sdk_client(process.url, "rk_test_standin") as client:
        create = client.v1.billing.meter_events.create_async
        error = await refused(create(event("e4", now)))
        assert isinstance(error, stripe.APIConnectionError)

        process.start()
        for identifier in ("e1", "e2", "e3"):
            assert "already exists" in str(
                await refused(create(event(identifier, now)))
            )
        error = await refused(create(event("e2", now, 7), {"idempotency_key": "e2@1"}))
        assert (500, "true") == (
            error.http_status,
            error.headers["idempotent-replayed"],
        )
        again = await create(event("e3", now, 9), {"idempotency_key": "e3@1"})
        assert "e3" == again.identifier
    assert [["cus_a", EVENT_NAME, hour, 21]] == process.dump()["totals"]
    assert 21 == sum(process.totals().values())


async def test_settings_and_outages_from_outside(process):
    meter = process.add_meter(EVENT_NAME)
    process.change(calls_per_second=1000, checked_later=["no_meter"])
    process.outage()
    async with sdk_client(process.url, "rk_test_standin") as client:
        retrieve = client.v1.billing.meters.retrieve_async
        assert isinstance(await refused(retrieve(meter)), stripe.APIConnectionError)
        process.outage(0)
        assert meter == (await retrieve(meter)).id
    seen = process.dump()

    assert {"outage": 1, "ok": 1} == seen["counts"]
    assert ["outage", "ok"] == [call["outcome"] for call in seen["calls"]]
    assert [] == seen["violations"]


def test_a_wrong_control_call_says_what_is_wrong(process):
    for verb, body, text in (
        ("settings", {"speed": 1}, "no setting speed"),
        ("faults", {"plan": "fire"}, "fire is none of"),
        ("magic", {}, "no control magic"),
    ):
        url = f"{process.url}/_stand_in/{verb}"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, json.dumps(body).encode())  # noqa: S310
        with caught.value as answer:
            assert 400 == answer.status
            assert text in answer.read().decode()


async def test_latency_faults_and_webhook_have_controls_of_their_own(process):
    for verb, body in (
        ("latency", {"seconds": 0.01}),
        ("faults", {"share": 0.4}),
        ("webhook", {"url": "http://127.0.0.1:1/", "secret": "whsec_x"}),
    ):
        assert {} == process._control(verb, body)


def test_a_torn_last_line_is_dropped(tmp_path):
    """A kill may leave half a line; the next one must not continue it."""
    path = tmp_path / "state.jsonl"
    journal = Journal(path)
    journal.append("clock", offset=1.0)
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"kind": "clo')
    journal.append("clock", offset=2.0)
    journal.close()

    assert [1.0, 2.0] == [line["offset"] for line in Journal(path).load()]


def test_a_line_of_an_unknown_kind_is_an_error(tmp_path):
    path = tmp_path / "state.jsonl"
    path.write_text('{"kind": "refund"}\n')

    with pytest.raises(ValueError, match="refund"):
        StandIn(path)


async def test_everything_is_loaded_again(tmp_path):
    path = tmp_path / "state.jsonl"
    async with running_stand_in(path) as first:
        meter = first.add_meter(EVENT_NAME)
        customer = first.add_customer()
        async with sdk_client(first.url, first.api_key) as client:
            session = await client.v2.billing.meter_event_session.create_async()
            token = session.authentication_token
            async with sdk_client(first.url, token) as of_session:
                create = of_session.v2.billing.meter_event_stream.create_async
                payload = {"stripe_customer_id": customer, "value": "many"}
                bad: Any = {"event_name": EVENT_NAME, "payload": payload}
                await create({"events": [bad]})
            await first.reports_sent()
            cancelled = event("e1", int(first.clock.now()))
            cancelled["payload"]["stripe_customer_id"] = customer
            await client.v1.billing.meter_events.create_async(cancelled)
            await client.v1.billing.meter_event_adjustments.create_async(
                {
                    "event_name": EVENT_NAME,
                    "type": "cancel",
                    "cancel": {"identifier": "e1"},
                }
            )
    async with running_stand_in(path) as second:
        assert {} == second.totals()
        assert first.events == second.events
        assert first.thin_events == second.thin_events
        assert first.sessions == second.sessions
        async with sdk_client(second.url, second.api_key) as client:
            assert meter == (await client.v1.billing.meters.retrieve_async(meter)).id
        assert customer != second.add_customer()
