"""Events that Stripe rejects later: reported over HTTP, signed, fetched, handed on."""

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
import stripe
from structlog.testing import capture_logs

from tests.integration.stripe.parts import (
    CUSTOMER,
    EVENT_NAME,
    attempt,
    stripe_account,
)
from tests.stripe_stand_in.stand_in import StandIn
from tollhouse.adapters.http_server import HttpServer, listening
from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.meter_events import MeterEvents
from tollhouse.adapters.stripe.meter_stream import MeterEventStream
from tollhouse.adapters.stripe.secret import Secret
from tollhouse.adapters.stripe.webhook import Webhook
from tollhouse.billing.webhook import MAX_BODY_BYTES, PATH, WebhookEndpoint
from tollhouse.core.chunk import Rejection
from tollhouse.core.problems import Unavailable

SECRET = "whsec_standin"


class Inbox:
    """Takes rejections, or can't at the moment."""

    def __init__(self) -> None:
        self.taken: list[list[Rejection]] = []
        self.counts: Counter[str] = Counter()
        self.is_away = False
        self.asked = asyncio.Event()

    async def __call__(self, rejections: list[Rejection]) -> None:
        self.asked.set()
        if self.is_away:
            raise Unavailable("Redis took too long")
        self.taken.append(rejections)


@contextlib.asynccontextmanager
async def serving(application) -> AsyncIterator[str]:
    """Serve as the billing process does, beside other work; gives the URL."""
    with listening("127.0.0.1:0") as listener:
        server = HttpServer(
            application, listener, drain_seconds=2, keep_alive_seconds=5
        )
        task = asyncio.create_task(server.run())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
async def account(stand_in: StandIn):
    stand_in.add_customer(CUSTOMER)
    stand_in.add_meter(EVENT_NAME)
    async with stripe_account(stand_in) as client:
        yield client


@pytest.fixture
async def url(stand_in: StandIn, account: Client, inbox: Inbox):
    webhook = Webhook(account, Secret(SECRET))
    async with serving(WebhookEndpoint(webhook, inbox, inbox.counts.update)) as base:
        stand_in.settings.webhook_url = f"{base}{PATH}"
        stand_in.settings.webhook_secret = SECRET
        yield f"{base}{PATH}"


@pytest.fixture
async def http():
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


def signed(body: str, *, secret: str = SECRET, age: float = 0) -> dict[str, str]:
    at = int(time.time() - age)
    header = stripe.WebhookSignature.generate_signature_header(body, secret, at)
    return {"Stripe-Signature": header}


async def reported(stand_in: StandIn, account: Client, *seqs: int) -> str:
    """Have events rejected; returns the thin event that says so."""
    for seq in seqs:
        odd = attempt(seq, customer="cus_nobody", number=seq)
        await MeterEvents(account).ship([odd])
    await stand_in.reports_sent()
    event = stand_in.thin_events[-1]
    names = ("id", "object", "type", "created", "livemode", "context")
    return json.dumps({name: event[name] for name in names})


async def posted(url: str, body: str, times: int = 2) -> list[int]:
    """Bring it there, signed; returns the statuses."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answers = [
            await client.post(url, content=body, headers=signed(body))
            for _ in range(times)
        ]
    return [answer.status_code for answer in answers]


def rejection(seq: int) -> Rejection:
    it = attempt(seq, number=seq)
    code = "meter_event_customer_not_found"
    return Rejection(it.chunk.identifier, code, it.number)


async def test_rejected_chunks_are_named(stand_in, account, url, inbox):
    """By the identifier in the key of their attempt, with Stripe's code."""
    with capture_logs() as logs:
        await reported(stand_in, account, 1, 2, 3)

    assert list(itertools.chain(*inbox.taken)) == [rejection(it) for it in (1, 2, 3)]
    assert {delivery.status for delivery in stand_in.deliveries} == {200}
    lines = [it for it in logs if it["event"] == "events.rejected"]
    assert sum(line["named"] for line in lines) == 3
    assert {code for line in lines for code in line["counts"]} == {
        "meter_event_customer_not_found"
    }
    assert "cus_nobody" not in str(logs)


async def test_more_are_rejected_than_are_named(stand_in, account, url, inbox):
    """Stripe gives samples: the count says how many others there are."""
    stand_in.settings.report_delay_seconds = 1.0
    provider = MeterEvents(account)
    with capture_logs() as logs:
        await asyncio.gather(
            *(
                provider.ship([attempt(seq, customer=f"cus_nobody{seq}")])
                for seq in range(1, 9)
            )
        )
        await stand_in.reports_sent()

    (line,) = [it for it in logs if it["event"] == "events.rejected"]
    assert line["counts"] == {"meter_event_customer_not_found": 8}
    assert len(inbox.taken[0]) == line["named"] == 5
    assert inbox.counts == {"meter_event_customer_not_found": 8}


async def test_a_call_of_many_events_names_none(stand_in, account, url, inbox):
    """The stream's reports name the call: better nobody than somebody."""
    odd = [attempt(seq, customer="cus_nobody") for seq in (1, 2)]
    with capture_logs() as logs:
        await MeterEventStream(account).ship(odd)
        await stand_in.reports_sent()

    (line,) = [it for it in logs if it["event"] == "events.rejected"]
    assert line["counts"] == {"meter_event_customer_not_found": 2}
    assert (line["named"], inbox.taken) == (0, [])
    assert inbox.counts == {"meter_event_customer_not_found": 2}


async def test_a_missing_meter(stand_in, account, url, inbox):
    """The other of the two events: it has no related object."""
    await MeterEventStream(account).ship([attempt(event_name="tollhouse.none")])
    await stand_in.reports_sent()

    assert stand_in.thin_events[-1]["type"] == "v1.billing.meter.no_meter_found"
    assert inbox.taken == [[Rejection(attempt().chunk.identifier, "no_meter", 1)]]


async def test_stripe_sends_again_until_they_are_in_safe_hands(
    stand_in, account, url, inbox
):
    """503 while Redis is away; then they come once more, and it is done."""
    inbox.is_away = True
    shipped = asyncio.create_task(reported(stand_in, account, 1))
    await inbox.asked.wait()
    inbox.is_away = False
    await shipped

    statuses = [delivery.status for delivery in stand_in.deliveries]
    assert (statuses[0], statuses[-1]) == (503, 200)
    assert inbox.taken == [[rejection(1)]]
    assert inbox.counts == {"meter_event_customer_not_found": 1}


@pytest.mark.parametrize("fault", ["rate_limit", "error_before", "reset_before"])
async def test_an_event_that_stripe_does_not_give_now(
    stand_in, account, url, inbox, fault
):
    """It is asked for again when Stripe sends again."""
    body = await reported(stand_in, account, 1)
    inbox.taken.clear()
    stand_in.faults.plan(fault)

    assert await posted(url, body) == [503, 200]
    assert inbox.taken == [[rejection(1)]]


async def test_a_replay_says_the_same(stand_in, account, url, inbox):
    """The same rejections: whoever takes them knows them already."""
    body = await reported(stand_in, account, 1)

    assert await posted(url, body, 3) == [200] * 3
    assert inbox.taken == [[rejection(1)]] * 4


async def test_nobody_else_is_believed(stand_in, account, url, inbox, http):
    """Tampered with, too old, signed by another, not signed, not readable."""
    body = await reported(stand_in, account, 1)
    inbox.taken.clear()
    good = signed(body)["Stripe-Signature"]
    bad = [
        (body.replace("evt_", "evt-"), {"Stripe-Signature": good}),
        (body + " ", {"Stripe-Signature": good}),
        (body, signed(body, age=301)),
        (body, signed(body, secret="whsec_other")),
        (body, {}),
        (body, {"Stripe-Signature": ""}),
        (body, {"Stripe-Signature": "t=1"}),
        (body, {"Stripe-Signature": "t=now,v1=00"}),
        (body, {"Stripe-Signature": good.replace("v1=", "v0=")}),
        (body, {b"Stripe-Signature": f"{good},v1=\xe9".encode("latin-1")}),
        (b"\xff\xfe", {"Stripe-Signature": good}),
        ("", {"Stripe-Signature": good}),
    ]
    before = len(stand_in.calls)
    for content, headers in bad:
        answer = await http.post(url, content=content, headers=headers)
        assert (answer.status_code, answer.content) == (400, b""), headers

    assert inbox.taken == []
    assert len(stand_in.calls) == before
    answer = await http.post(url, content=body, headers=signed(body, age=295))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        '{"object": "event", "type": "invoice.created", "id": "evt_1"}',
        '{"object": "v2.core.event", "type": "v1.billing.meter.created", "id": "e"}',
        '{"object": "v2.core.event"}',
        "[]",
        "7",
        "not JSON",
        "",
    ],
)
async def test_other_events_are_none_of_ours(stand_in, account, url, inbox, body):
    """Signed by Stripe and ignored, so that it does not send them again."""
    assert await posted(url, body, 1) == [200]
    assert inbox.taken == []
    assert stand_in.calls == []


async def test_an_event_without_an_id(url, inbox):
    """Signed, and still no event: it may come better the next time."""
    body = json.dumps(
        {"object": "v2.core.event", "type": "v1.billing.meter.no_meter_found"}
    )

    assert await posted(url, body, 1) == [503]
    assert inbox.taken == []


async def test_only_so_much_is_read(url, inbox, http):
    """Anybody may send: with a length or in pieces."""

    async def pieces():
        for _ in range(MAX_BODY_BYTES // 1024 + 1):
            yield b"x" * 1024

    whole = await http.post(url, content=b"x" * (MAX_BODY_BYTES + 1))
    assert whole.status_code == 413
    assert (await http.post(url, content=pieces())).status_code == 413
    assert (await http.post(url, content=b"x" * MAX_BODY_BYTES)).status_code == 400


async def test_only_one_path_and_method(url, inbox, http):
    for method, path, status in (
        ("GET", url, 405),
        ("PUT", url, 405),
        ("POST", f"{url}/more", 404),
        ("POST", url.replace(PATH, "/"), 404),
    ):
        assert (await http.request(method, path)).status_code == status
    assert (await http.get(url)).headers["allow"] == "POST"


async def test_running_requests_are_finished_at_the_end(account, inbox):
    """The process stops while a report is being handed on."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(scope, receive, send) -> None:
        reached.set()
        await go_on.wait()
        await WebhookEndpoint(
            Webhook(account, Secret(SECRET)), inbox, inbox.counts.update
        )(scope, receive, send)

    body = '{"object": "event"}'
    with listening("127.0.0.1:0") as listener:
        server = HttpServer(slowly, listener, drain_seconds=2, keep_alive_seconds=5)
        running = asyncio.create_task(server.run())
        port = listener.getsockname()[1]
        async with httpx.AsyncClient(trust_env=False) as client:
            post = asyncio.create_task(
                client.post(
                    f"http://127.0.0.1:{port}{PATH}",
                    content=body,
                    headers=signed(body),
                )
            )
            await reached.wait()
            running.cancel()
            go_on.set()
            assert (await post).status_code == 200
            with pytest.raises(asyncio.CancelledError):
                await running
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{port}{PATH}")


async def test_too_many_at_once_are_turned_away(account, inbox):
    """Connections of strangers don't pile up."""
    webhook = WebhookEndpoint(
        Webhook(account, Secret(SECRET)), inbox, inbox.counts.update
    )
    with listening("127.0.0.1:0") as listener:
        server = HttpServer(
            webhook, listener, drain_seconds=1, keep_alive_seconds=5, most_at_once=2
        )
        running = asyncio.create_task(server.run())
        address = listener.getsockname()[:2]
        idle = [await asyncio.open_connection(*address) for _ in range(2)]
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"http://127.0.0.1:{address[1]}{PATH}")
        for _, writer in idle:
            writer.close()
        await server.drain()
        await running

    assert answer.status_code == 503
