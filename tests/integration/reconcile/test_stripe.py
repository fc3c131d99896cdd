"""`tollhouse reconcile --provider` against a stand-in of Stripe."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import redis

from tests.integration.reconcile.conftest import (
    HOUR,
    SHARDS_OF_BILLING,
    Reconcile,
    Reconciled,
    Rig,
    Run,
    settlement,
)
from tests.stripe_stand_in.server import running_stand_in
from tests.stripe_stand_in.stand_in import StandIn
from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.chunks import SENT_SECONDS
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.customers import Customers
from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.meter_events import MeterEvents
from tollhouse.adapters.stripe.secret import Secret
from tollhouse.core.chunk import PATIENCE_SECONDS, Attempt, Window, verified
from tollhouse.core.meter import event_name
from tollhouse.core.windows import BILLED, TokenType

OUTPUT = Window("acme", "tiny-chat", TokenType.OUTPUT, HOUR)
CHUNK = billing_keys.chunk(OUTPUT, 1)
CUSTOMERS = {"acme": "cus_acme", "zeta": "cus_zeta"}

Ask = Callable[..., "asyncio.Future[Reconciled]"]


@pytest.fixture
async def stripe() -> AsyncIterator[StandIn]:
    async with running_stand_in() as stand_in:
        for token_type in BILLED:
            stand_in.add_meter(event_name("tiny-chat", token_type))
        for customer in CUSTOMERS.values():
            stand_in.add_customer(customer)
        yield stand_in


@pytest.fixture
async def shipped(client: Redis, stripe: StandIn) -> AsyncIterator[Rig]:
    """Two tenants whose usage is with the stand-in, long enough to show."""
    api = Client(Secret(stripe.api_key), url=stripe.url)
    rig = Rig(client, client, MeterEvents(api), CUSTOMERS)
    for tenant, customer in CUSTOMERS.items():
        await Customers(client).link(tenant, customer)
    await rig.settle(settlement(), settlement("zeta"))
    await rig.carry()
    await rig.seal()
    await rig.ship()
    for tenant in CUSTOMERS:
        for it in BILLED:
            window = Window(tenant, "tiny-chat", it, HOUR)
            life = SENT_SECONDS - PATIENCE_SECONDS - 60
            await client.call("EXPIRE", billing_keys.chunk(window, 1), life)
    yield rig
    await api.close()


@pytest.fixture
def ask(reconcile: Reconcile, stripe: StandIn, tmp_path: Path) -> Ask:
    """The command with a key of the stand-in, which runs meanwhile."""
    key = tmp_path / "stripe.key"
    key.write_text(stripe.api_key)
    key.chmod(0o600)
    where = ("--stripe-key-file", str(key), "--stripe-url", stripe.url)

    def ask(*arguments: str) -> "asyncio.Future[Reconciled]":
        return asyncio.ensure_future(
            asyncio.to_thread(reconcile, "--provider", *where, *arguments)
        )

    return ask


async def test_what_stripe_has_is_what_was_sent(shipped: Rig, ask: Ask):
    answer = await ask()

    assert (0, []) == (answer.status, answer.document["differences"])
    assert 6 == answer.document["provider"]["totals_asked"]


async def test_an_event_that_stripe_lost_is_found(
    shipped: Rig, ask: Ask, stripe: StandIn
):
    event = next(it for it in stripe.events if "output" in it.event_name)
    stripe.meter_events.cancel(event.event_name, event.identifier)

    answer = await ask()

    assert (1, {("provider less", "output")}) == (answer.status, answer.findings)


async def test_an_event_that_stripe_has_twice_is_found(
    shipped: Rig, ask: Ask, db: redis.Redis
):
    """As after a rollback of our side: sent under another identifier."""
    db.hset(CHUNK, mapping={"identifier": "th1_00_again", "state": "open"})
    db.hincrby(billing_keys.window(OUTPUT), "accepted", -7)
    open_ = billing_keys.of_shard(billing_keys.shard("acme"), "open")
    db.zadd(open_, {f"{OUTPUT.name}|1": 0})
    await shipped.ship()

    answer = await ask()

    assert (1, {("provider more", "output")}) == (answer.status, answer.findings)


async def test_what_was_just_sent_may_not_show_yet(
    shipped: Rig, ask: Ask, stripe: StandIn
):
    """Summaries follow; within the hour in which they may, less is no difference."""
    await shipped.settle(settlement(output=9))
    await shipped.carry()
    await shipped.seal()
    stripe.settings.summary_delay_seconds = 600.0
    stripe.clock.advance(601.0)  # the first ones show
    await shipped.ship()

    assert 0 == (await ask()).status


async def test_a_chunk_in_doubt_may_be_there_or_not(
    shipped: Rig, ask: Ask, db: redis.Redis, stripe: StandIn
):
    await shipped.settle(settlement(output=9))
    await shipped.carry()
    await shipped.seal()
    id_ = f"{OUTPUT.name}|2".encode()
    (stored,) = await shipped.chunks.read([id_])
    begun = await shipped.chunks.begin(stored, now=1, until=9e9)
    assert begun is not None

    assert 0 == (await ask()).status
    stripe.settings.summary_delay_seconds = 0.0
    await shipped.provider.ship([Attempt(begun.chunk, 1)])
    assert 0 == (await ask()).status


async def test_a_restored_redis_is_settled_to_the_token(
    shipped: Rig, ask: Ask, db: redis.Redis, stripe: StandIn, tollhouse: Run
):
    """It seals again, with more, what Stripe has: parked, settled, the rest is sent."""
    for key in [*db.scan_iter("{b*}:chunk:acme*"), *db.scan_iter("{b*}:window:acme*")]:
        if b":window:" in key:
            db.hdel(key, "sealed", "seq", "open", "accepted")
        else:
            db.delete(key)
    # The window had 7.
    await shipped.settle(settlement(input_tokens=0, cached=0, output=4, reasoning=0))
    await shipped.carry()
    unsealed = billing_keys.of_shard(billing_keys.shard("acme"), "unsealed")
    db.zadd(unsealed, {billing_keys.row_name("acme", HOUR, "tiny-chat"): 0})
    await shipped.seal()
    await shipped.ship()
    await look_up(shipped)
    id_ = f"{OUTPUT.name}|1"
    (parked,) = await shipped.chunks.read([id_.encode()])
    assert (11, "provider_differs") == (parked.chunk.value, parked.progress.reason)

    url = str(db.connection_pool.connection_kwargs["path"])
    settle = ("billing", "parked", "settle", id_, "--tokens", "7", "--why", "restored")
    answer = await asyncio.to_thread(
        tollhouse, *settle, "--billing-redis-url", f"unix://{url}"
    )
    assert 0 == answer.returncode, answer.stderr
    await shipped.seal()
    await shipped.ship()
    for key in db.scan_iter("{b*}:chunk:*"):
        db.expire(key, SENT_SECONDS - PATIENCE_SECONDS - 60)

    account = "cus_acme", event_name("tiny-chat", TokenType.OUTPUT), HOUR
    assert 11 == stripe.totals()[account]
    found = await ask()
    assert (0, []) == (found.status, found.document["differences"])
    assert 0 == found.document["summary"]["parked"]


async def look_up(rig: Rig) -> None:
    """Ask the provider about all that is open, as the shipper does."""
    now = int(time.time())
    for stored in await rig.chunks.due(SHARDS_OF_BILLING, now + 9999, 1000):
        chunk = stored.chunk
        total = await rig.provider.total(
            *(chunk.account.customer, chunk.event_name),
            *(chunk.timestamp, chunk.timestamp + 60),
        )
        decide = partial(
            verified,
            chunk,
            others=await rig.chunks.others(chunk),
            total=total,
            now=now,
        )
        await rig.chunks.conclude(stored, decide, now=now, look_at=now + 1.0)


async def test_a_tenant_that_is_no_customer_is_named(
    shipped: Rig, ask: Ask, db: redis.Redis
):
    await shipped.settle(settlement("t-3"))
    await shipped.carry()
    await shipped.seal()

    answer = await ask()

    assert 1 == answer.status
    assert {("unlinked", it) for it in BILLED} == answer.findings


async def test_a_stripe_that_does_not_answer_is_no_pass(
    shipped: Rig, ask: Ask, stripe: StandIn
):
    stripe.outage()

    answer = await ask()

    assert 2 == answer.status
    assert answer.document["balanced"]
    assert 6 == len(answer.document["provider"]["failures"])
