"""Usage to a meter event, through faults, outages and lost state: each token once."""

import asyncio
from collections import Counter

import pytest
import redis

from tests.integration.shipping.conftest import HOUR, SEALED_AT, usage
from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.asking import ask
from tollhouse.adapters.redis.parked import ParkedChunks
from tollhouse.billing.shipper import CHUNKS_AT_ONCE
from tollhouse.core.chunk import Attempt, Rejection, State
from tollhouse.core.meter import event_name
from tollhouse.core.windows import BILLED, TokenType

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

OUTPUT = event_name("tiny-chat", TokenType.OUTPUT)
WINDOW = f"acme|tiny-chat|output|{HOUR}"
DAY = 24 * 3600
UNLINKED = "tollhouse.tenants.unlinked"


def billed(stripe, customer="cus_acme", hour=HOUR):
    """What the provider counts, by token type."""
    return {
        kind.value: stripe.totals().get((customer, event_name("tiny-chat", kind), hour))
        for kind in TokenType
        if (customer, event_name("tiny-chat", kind), hour) in stripe.totals()
    }


async def test_an_hour_becomes_one_event_per_meter(aggregator, stripe):
    """Cached input has a meter of its own; reasoning is a part of the output."""
    records = [usage(input=10, cached=4, output=7, reasoning=2) for _ in range(50)]

    await aggregator.record(*records)
    await aggregator.seal()
    await aggregator.drain()

    assert {"uncached_input": 300, "cached_input": 200, "output": 350} == billed(stripe)
    assert 3 == stripe.counts["accepted"]
    assert {HOUR * 3600} == {it.timestamp for it in stripe.events}


async def test_nothing_is_sealed_before_its_time(aggregator, stripe, clock):
    """Five minutes after the hour: until then records come as a rule."""
    await aggregator.record(usage())
    await aggregator.leadership.renew()

    clock.now = SEALED_AT - 1
    await aggregator.sealer.look()
    early = (await aggregator.backlog()).open_chunks
    clock.now = SEALED_AT
    await aggregator.sealer.look()

    assert (0, 2) == (early, (await aggregator.backlog()).open_chunks)


async def test_late_records_are_the_difference_an_hour_later(aggregator, stripe, clock):
    """With the hour they belong to, in a minute of their own."""
    first = usage(input=5, output=9)
    await aggregator.record(first)
    await aggregator.seal()
    await aggregator.drain()

    await aggregator.record(usage(input=0, output=4), first.adjusted(output=-6))
    await aggregator.seal()
    soon = (await aggregator.backlog()).open_chunks
    clock.now += 3600
    await aggregator.seal()
    await aggregator.drain()

    assert 0 == soon
    assert {"uncached_input": 5, "output": 7} == billed(stripe)
    stamps = [it.timestamp for it in stripe.events if it.event_name == OUTPUT]
    assert [HOUR * 3600, HOUR * 3600 + 60] == stamps


async def test_a_row_nobody_seals_is_overdue(aggregator, stripe, clock):
    """An hour after its time: no aggregator leads the shard, an alarm has to ring."""
    await aggregator.record(usage(output=9))
    clock.now = SEALED_AT + 3599
    in_time = await aggregator.backlog()
    clock.now += 3600

    assert (0, 1) == (in_time.overdue_rows, (await aggregator.backlog()).overdue_rows)


async def test_an_open_chunk_has_an_age(aggregator, stripe, clock):
    """Since it was sealed, however often it was tried."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    stripe.outage()
    for _ in range(3):
        await aggregator.ship()
        clock.now += 100

    waiting = await aggregator.backlog()

    assert (2, 300) == (waiting.open_chunks, waiting.oldest_open_seconds)
    assert aggregator.measured("tollhouse.provider.calls").keys() <= {
        "unknown",
        "refused",
    }


async def test_a_window_has_one_open_chunk(aggregator, stripe, clock):
    """What comes meanwhile waits: the order of corrections is kept."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    await aggregator.record(usage(output=4))
    clock.now += 3600

    await aggregator.seal()
    ids = [it.id for it in await aggregator.due()]
    await aggregator.drain()
    clock.now += 3600
    await aggregator.seal()
    await aggregator.drain()

    assert f"{WINDOW}|1" in ids
    assert f"{WINDOW}|2" not in ids
    assert 13 == billed(stripe)["output"]


async def test_an_unlinked_tenant_waits_and_loses_nothing(aggregator, stripe, clock):
    """Its customer is looked up when it is sealed."""
    del aggregator.accounts["zeta"]
    await aggregator.record(usage("zeta", output=3), usage("acme", output=5))
    await aggregator.seal()
    await aggregator.drain()
    clock.now += 2 * 3600
    await aggregator.seal()
    before, told = billed(stripe, "cus_zeta"), aggregator.measured(UNLINKED)

    aggregator.accounts["zeta"] = "cus_zeta"
    clock.now += 3600
    await aggregator.seal()
    await aggregator.drain()

    assert ({}, {"": 1}, {"": 0}) == (before, told, aggregator.measured(UNLINKED))
    assert 3 == billed(stripe, "cus_zeta")["output"]


@pytest.mark.parametrize("seed", range(4))
async def test_faults_of_every_kind_double_and_lose_nothing(aggregator, stripe, seed):
    """Forty calls in a hundred fail: before it was applied, after, or silently."""
    stripe.settings.seed, stripe.settings.fault_share = seed, 0.4
    stripe.settings.hang_seconds = 1.5
    records = [
        usage(tenant, hour=HOUR - hours, input=number, output=7)
        for tenant in ("acme", "zeta")
        for hours in range(6)
        for number in range(3)
    ]

    await aggregator.record(*records)
    await aggregator.seal()
    await aggregator.drain()

    expected = {
        (customer, event_name("tiny-chat", kind), HOUR - hours): value
        for customer in ("cus_acme", "cus_zeta")
        for hours in range(6)
        for kind, value in ((TokenType.UNCACHED_INPUT, 3), (TokenType.OUTPUT, 21))
    }
    assert expected == stripe.totals()
    assert 1 == max(stripe.max_concurrency.values())
    assert 0 == stripe.counts["lock_timeout"]


async def test_down_for_26_hours_and_in_doubt_from_the_start(aggregator, stripe, clock):
    """Identifiers are forgotten by then: the summary says that it had arrived."""
    await aggregator.record(usage(output=9), usage("zeta", output=5))
    await aggregator.seal()
    arrived = (await aggregator.stored(f"{WINDOW}|1")).chunk.identifier
    stripe.faults.plan("reset_after", on=arrived)
    await aggregator.ship()
    stripe.outage()
    # What the other chunks had, they had before: only one is applied and unheard of.
    for _ in range(26):
        clock.now += 3600
        stripe.clock.advance(3600)
        await aggregator.ship()
    doubtful = await aggregator.stored(f"{WINDOW}|1")
    stripe.end_outage()

    await aggregator.drain()

    assert clock.now - doubtful.progress.doubt_at > DAY
    assert {"uncached_input": 10, "output": 9} == billed(stripe)
    assert {"uncached_input": 10, "output": 5} == billed(stripe, "cus_zeta")
    paths = Counter(it.path.rpartition("/")[2] for it in stripe.calls)
    assert paths["event_summaries"] > 0


async def test_a_shipper_that_died_in_its_call_left_a_doubt(aggregator, stripe, clock):
    """The attempt was noted before it was made; nobody was left to note its answer."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    dying = await aggregator.stored(f"{WINDOW}|1")
    await aggregator.chunks.begin(dying, now=int(clock()), until=clock() + 15)
    await aggregator.provider.ship([Attempt(dying.chunk, 1)])
    clock.now += 26 * 3600
    stripe.clock.advance(26 * 3600)

    await aggregator.drain()

    assert {"uncached_input": 10, "output": 9} == billed(stripe)


async def test_in_doubt_for_a_day_and_never_arrived(aggregator, stripe, clock):
    """The summary says so, and it is sent anew."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    stripe.outage()
    await aggregator.ship()
    clock.now += 26 * 3600
    stripe.clock.advance(26 * 3600)
    stripe.end_outage()

    await aggregator.drain()

    assert {"uncached_input": 10, "output": 9} == billed(stripe)


async def test_poison_is_parked_and_stands_in_no_others_way(aggregator, stripe):
    """Its code is kept, not Stripe's text; later chunks of the window go on."""
    stripe.settings.checked_later = frozenset()
    aggregator.accounts["acme"] = "cus_unknown"
    await aggregator.record(usage("acme", output=9), usage("zeta", output=5))

    await aggregator.seal()
    await aggregator.drain()

    parked = (await aggregator.stored(f"{WINDOW}|1")).progress
    assert State.PARKED is parked.state
    assert "meter_event_customer_not_found" == parked.reason
    assert 2 == (await aggregator.backlog()).parked_chunks
    assert {"uncached_input": 10, "output": 5} == billed(stripe, "cus_zeta")


async def test_a_refused_key_blames_no_chunk(aggregator, stripe):
    """All wait, nothing is parked, and nothing is in doubt."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    known = stripe.settings.api_keys
    stripe.settings.api_keys = frozenset({"rk_another"})
    await aggregator.ship()
    progress = (await aggregator.stored(f"{WINDOW}|1")).progress
    stripe.settings.api_keys = known

    await aggregator.drain()

    assert (State.OPEN, 0) == (progress.state, progress.doubt_at)
    assert {"uncached_input": 10, "output": 9} == billed(stripe)


async def test_what_the_provider_reports_afterwards_is_parked(aggregator, stripe):
    """It had taken the event, and then found no customer for it."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    await aggregator.drain()
    chunk = (await aggregator.stored(f"{WINDOW}|1")).chunk

    rejected = [
        await aggregator.chunks.reject(
            Rejection(identifier, "meter_event_customer_not_found", 1), now=SEALED_AT
        )
        for identifier in (chunk.identifier, chunk.identifier, "th1_x", "?")
    ]

    after = (await aggregator.stored(f"{WINDOW}|1")).progress
    assert [chunk, None, None, None] == [it and it.chunk for it in rejected]
    assert (State.PARKED, 0) == (after.state, after.doubt_at)
    assert 1 == (await aggregator.backlog()).parked_chunks


async def test_a_report_that_comes_again_does_not_undo_a_delivery(
    aggregator, stripe, clock
):
    """Stripe repeats reports for days; meanwhile a retry was taken and counted."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    chunk = (await aggregator.stored(f"{WINDOW}|1")).chunk
    stripe.faults.plan("error_before", on=chunk.identifier)
    await aggregator.drain()
    report = Rejection(chunk.identifier, "meter_event_customer_not_found", 1)

    await aggregator.chunks.reject(report, now=int(clock()))
    asked = (await aggregator.stored(chunk.id)).progress.state
    await aggregator.drain()

    assert (State.OPEN, State.SENT) == (asked, await aggregator.state(chunk.id))
    assert {"uncached_input": 10, "output": 9} == billed(stripe)
    assert "9" == await _accepted(aggregator, WINDOW)


async def _accepted(aggregator, window):
    (number,) = await ask(
        aggregator.redis, [("HGET", f"{{b8}}:window:{window}", "accepted")]
    )
    return number.decode()


async def test_what_can_never_be_looked_up_is_parked_and_blocks_nobody(
    aggregator, stripe, clock
):
    """Its customer is not there any more, and it was in doubt for a day."""
    shard = billing_keys.shard("acme")
    other = next(
        it for it in map("t-{}".format, range(999)) if billing_keys.shard(it) == shard
    )
    aggregator.accounts["acme"] = "cus_gone"
    hours = [HOUR - it for it in range(CHUNKS_AT_ONCE // 2 + 9)]
    await aggregator.record(*(usage(hour=it, output=3) for it in hours))
    await aggregator.seal()
    stripe.outage()
    # All are in doubt: what the provider has nobody heard.
    for _ in range(12):
        await aggregator.ship()
        clock.now += 1
    stripe.end_outage()
    clock.now += 24 * 3600
    stripe.clock.advance(24 * 3600)
    await aggregator.record(usage(other, hour=HOUR + 20, output=5))
    aggregator.accounts[other] = "cus_zeta"
    clock.now += 7200
    stripe.clock.advance(7200)
    await aggregator.seal()

    for _ in range(20):
        await aggregator.ship()

    assert 5 == billed(stripe, "cus_zeta", HOUR + 20)["output"]
    reasons = {
        it.stored.progress.reason for it in await ParkedChunks(aggregator.redis).all()
    }
    assert {"cannot_be_looked_up"} == reasons


async def test_a_key_that_may_not_look_up_blocks_nobody(aggregator, stripe, clock):
    """It waits with pauses, and is not the first in line for ever."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    stuck = await aggregator.stored(f"{WINDOW}|1")
    await aggregator.chunks.begin(stuck, now=int(clock()), until=clock())
    clock.now += 26 * 3600
    stripe.clock.advance(26 * 3600)
    stripe.settings.restricted_keys = {
        stripe.api_key: ("/v1/billing/meter_events",),
    }
    stripe.settings.api_keys = frozenset()

    await aggregator.ship()
    first = await aggregator.due()
    clock.now += 100

    assert stuck.chunk not in first
    assert stuck.chunk in await aggregator.due()
    assert State.OPEN is await aggregator.state(stuck.chunk.id)


async def test_a_backup_of_days_ago_is_looked_up_first(aggregator, stripe, clock, db):
    """It was sent after the backup, and Stripe has forgotten its identifier."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    backup = {key: db.dump(key) for key in db.scan_iter("{b*}*")}
    await aggregator.drain()
    db.flushall()
    for key, content in backup.items():
        db.restore(key, 0, content)
    clock.now += 30 * 3600
    stripe.clock.advance(30 * 3600)

    await aggregator.drain()

    assert State.SENT is await aggregator.state(f"{WINDOW}|1")
    assert {"uncached_input": 10, "output": 9} == billed(stripe)


async def test_a_broken_chunk_stands_in_no_others_way(aggregator, stripe, db, clock):
    """Somebody's hand in Redis, and a release that knows another field."""
    await aggregator.record(usage(output=9), usage("zeta", output=5))
    await aggregator.seal()
    db.hset(f"{{b8}}:chunk:{WINDOW}|1", "attempts", "many")
    db.zadd("{b8}:open", {"nonsense": 1, "acme|no|words|1": 2})

    for _ in range(3):
        await aggregator.ship()
        clock.now += 70

    assert {"uncached_input": 10, "output": 5} == billed(stripe, "cus_zeta")
    assert {"uncached_input": 10} == billed(stripe)
    assert min(at for _, at in db.zrange("{b8}:open", 0, -1, withscores=True)) > clock()


async def test_a_chunk_too_old_to_be_taken_is_parked(aggregator, stripe, clock):
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    clock.now += 34 * DAY

    await aggregator.drain()

    progress = (await aggregator.stored(f"{WINDOW}|1")).progress
    assert (State.PARKED, "too_old") == (progress.state, progress.reason)
    assert {} == billed(stripe)


async def test_state_that_went_backwards_is_noticed(aggregator, stripe, db):
    """A restored Redis seals the same chunk with another value: nobody calls it sent.

    The provider has its identifier with what was sealed before.
    """
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    await aggregator.drain()
    _forget_chunks(db)
    await aggregator.record(usage(output=4))
    db.zadd("{b8}:unsealed", {f"acme|{HOUR:07d}|tiny-chat": SEALED_AT})
    await aggregator.seal()

    await aggregator.drain()

    progress = (await aggregator.stored(f"{WINDOW}|1")).progress
    assert (State.PARKED, "provider_differs") == (progress.state, progress.reason)
    assert 9 == billed(stripe)["output"]


async def test_state_that_lost_only_the_sending_recovers(aggregator, stripe, db):
    """The same chunk with the same value: the summary proves that it was delivered."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    await aggregator.drain()
    _forget_chunks(db)
    db.zadd("{b8}:unsealed", {f"acme|{HOUR:07d}|tiny-chat": SEALED_AT})
    await aggregator.seal()

    await aggregator.drain()

    assert State.SENT is await aggregator.state(f"{WINDOW}|1")
    assert {"uncached_input": 10, "output": 9} == billed(stripe)


def _forget_chunks(db: redis.Redis) -> None:
    """Put Redis back to before the seal."""
    for key in db.scan_iter("{b*}:chunk:*"):
        db.delete(key)
    for key in db.scan_iter("{b*}:window:*"):
        db.hdel(key, "sealed", "seq", "open", "accepted")


async def test_two_gateways_on_one_account_take_no_event_for_their_own(
    make_aggregator, stripe, clock, db
):
    """Same tenants, models and hour: the other's event is in the minute looked up."""
    here, there = make_aggregator("here"), make_aggregator("there", "eu")
    for token_type in BILLED:
        stripe.add_meter(event_name("tiny-chat", token_type, "eu"))
    await here.record(usage(input=0, output=9))
    await here.seal()
    await here.drain()
    db.flushdb()  # the other gateway has a Redis of its own
    await there.record(usage(input=0, output=9))
    clock.now += 3600
    await there.seal()
    stripe.outage()
    await there.ship()  # in doubt, and never arrived
    clock.now += 26 * 3600
    stripe.clock.advance(26 * 3600)
    stripe.end_outage()

    await there.drain()

    assert {
        ("cus_acme", event_name("tiny-chat", TokenType.OUTPUT, it), HOUR): 9
        for it in ("tollhouse", "eu")
    } == stripe.totals()


async def test_two_shippers_at_once_bill_once(make_aggregator, stripe):
    """A lease that was lost and not noticed: harmless, not only unlikely."""
    one, other = make_aggregator("one"), make_aggregator("other")
    stripe.settings.fault_share = 0.3
    await one.record(*(usage(hour=HOUR - it, output=9) for it in range(8)))
    await one.seal()
    await one.leadership.renew()
    other.leadership._until = dict(one.leadership._until)

    for _ in range(60):
        await asyncio.gather(one.shipper.look(), other.shipper.look())
        await asyncio.gather(one.shipper.rest(), other.shipper.rest())
        one.clock.now += 70
        await one.leadership.renew()
        other.leadership._until = dict(one.leadership._until)
        if not (await one.backlog()).open_chunks:
            break

    assert {9} == {
        value for (_, name, _), value in stripe.totals().items() if name == OUTPUT
    }
    assert 16 == len(stripe.totals())
    assert 0 == (await one.backlog()).open_chunks


async def test_a_dead_leader_is_replaced_when_its_lease_ends(make_aggregator, db):
    one, other = make_aggregator("one"), make_aggregator("other")
    await one.leadership.renew()
    await other.leadership.renew()
    while_it_lives = other.leadership.shards
    for key in db.scan_iter("{b*}:leader"):
        db.delete(key)  # as Redis does after six seconds

    await other.leadership.renew()
    await one.leadership.renew()

    assert ([], 16) == (while_it_lives, len(other.leadership.shards))
    assert [] == one.leadership.shards


async def test_a_leader_that_stops_leaves_at_once(make_aggregator):
    one, other = make_aggregator("one"), make_aggregator("other")
    await one.leadership.renew()

    await one.leadership.resign()
    await other.leadership.renew()

    assert ([], 16) == (one.leadership.shards, len(other.leadership.shards))


async def test_chunks_of_another_provider_are_not_sent_to_this_one(
    aggregator, stripe, db
):
    """Its customers have other names there."""
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    for key in db.scan_iter("{b*}:chunk:*"):
        db.hset(key, "provider", "ledger")

    await aggregator.drain()

    assert "other_provider" == (await aggregator.stored(f"{WINDOW}|1")).progress.reason
    assert {} == billed(stripe)
