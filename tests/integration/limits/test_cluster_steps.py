"""All that is kept in Redis, kept in a Redis Cluster: every script and every reader.

A key of another slot in a script, or in a command, would be CROSSSLOT: our fault, which
nothing here catches.
"""

import asyncio
import os
import time
from functools import partial
from typing import Any

import msgspec
import pytest

from tests.integration.limits.rig import ask, shards_of
from tests.redis_process import running_cluster
from tollhouse.adapters.ledger import Position
from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.backlog import Backlog, Backlogs
from tollhouse.adapters.redis.billing_keys import BILLING_SHARDS
from tollhouse.adapters.redis.chunks import Chunks
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.cluster import slot_of
from tollhouse.adapters.redis.credentials import Credentials
from tollhouse.adapters.redis.dedupe import Dedupe
from tollhouse.adapters.redis.experience import Lessons, Refresher
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.redis.leadership import Leadership
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.outbox import FIRST, Leaving, Outbox
from tollhouse.adapters.redis.positions import KEPT_SECONDS, Positions
from tollhouse.adapters.redis.reaper import Reaper
from tollhouse.adapters.redis.windows import Windows
from tollhouse.adapters.redis.workers import Workers
from tollhouse.core.chunk import Account, Answer, Verdict, conclude
from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.experience import Experience
from tollhouse.core.ids import exchange_id
from tollhouse.core.lesson import lesson
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.local import Share
from tollhouse.core.reservation import Granted, Refused
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind
from tollhouse.core.windows import Posting

LIMITS = (
    Limit(Scope.KEY, Measure.UNITS, 600_000),
    Limit(Scope.KEY, Measure.CONCURRENT, 100),
    Limit(Scope.TENANT, Measure.REQUESTS, 6000),
    Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 10**9),
    Limit(Scope.TENANT_MODEL, Measure.MONEY_PER_MONTH, 10**15),
    Limit(Scope.MODEL, Measure.UNITS, 10**9),
    Limit(Scope.MODEL, Measure.CAPACITY, 10**9),
    Limit(Scope.GLOBAL, Measure.REQUESTS, 10**6),
)
NO_MORE = Limit(Scope.TENANT, Measure.CONCURRENT, 0)


@pytest.fixture(scope="module")
def cluster():
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
async def redis(cluster):
    for node in cluster.nodes:
        node.ask("FLUSHALL")
    client = await Redis.connect(cluster.url, budget_seconds=1.0)
    yield client
    await client.close()


def tenants():
    """One of every shard."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < shards.SHARDS:
        name = f"tenant-{number}"
        found.setdefault(shards.shard(name), name)
        number += 1
    return list(found.values())


def now_ms():
    return time.time_ns() // 1_000_000


def counted(reservation, granted, **last):
    """What a ledger line says of an admitted exchange."""
    plain: dict[str, Any] = {
        "exchange_id": reservation.exchange_id,
        "facts": msgspec.structs.replace(reservation.facts, debits=granted.debits),
        "usage": TokenUsage(40, 30),
        "input_source": CountSource.BACKEND,
        "output_source": CountSource.BACKEND,
        "started_ms": now_ms() - 900,
        "first_ms": now_ms() - 500,
    }
    return plain | last


async def reserved(limiter, limits=LIMITS):
    """An exchange of each tenant, and what it was granted."""
    found = []
    for tenant in tenants():
        reservation = ask(exchange_id(now_ms(), os.urandom(10)), *limits, tenant=tenant)
        granted = await limiter.reserve(reservation)
        assert isinstance(granted, Granted)
        assert len(limits) == len(granted.debits)
        found.append((reservation, granted))
    return found


def settlements(found):
    last = {"kind": UsageKind.FINAL, "ended_ms": now_ms(), "flags": ""}
    return [Settlement(**counted(*it, **last)) for it in found]


async def test_every_step_runs_in_every_slot(cluster, redis):
    """Reserved, beaten, settled, released, refused and reaped: nothing is left over."""
    limiter = Limiter(redis, lease_seconds=30.0)
    ended, gone = await reserved(limiter), await reserved(limiter)
    beats = [Beat(**counted(*it, at_ms=now_ms())) for it in ended]
    releases = [Release(it.exchange_id, it.facts.tenant) for it, _ in gone]
    every = set(range(shards.SHARDS))
    assert every == shards_of(await limiter.apply(releases, beats, settlements(ended)))
    assert [] == await limiter.apply(releases, beats, settlements(ended))

    short = Limiter(redis, lease_seconds=0.001)
    await reserved(short)
    refused = await limiter.reserve(
        ask(exchange_id(now_ms(), os.urandom(10)), *LIMITS, NO_MORE)
    )
    assert isinstance(refused, Refused)
    await limiter.close()
    assert every == shards_of(await Reaper(redis).reap_expired())
    assert [] == await Reaper(redis).expired()

    left = [
        key
        for node in cluster.nodes
        for kind in ("leases", "concurrent:*", "inflight:*")
        for key in node.ask("KEYS", f"{{*}}:{kind}")
    ]
    assert [] == left
    for node in cluster.nodes:
        assert node.ask("KEYS", "{s*}:outbox")
    slots = {slot_of(shards.tag(slot)) for slot in range(shards.FLEET + 1)}
    assert len(slots) == shards.SHARDS + 1


async def test_the_outbox_is_read_over_all_nodes(redis):
    """By two relays: new entries, one's own, the other's; then they leave."""
    limiter = Limiter(redis)
    found = await reserved(limiter)
    await limiter.settle_many(settlements(found))
    outbox, other = Outbox(redis, "w1"), Outbox(redis, "w2")
    places = [(shard, FIRST) for shard in range(shards.SHARDS)]

    new = await outbox.read_new(range(shards.SHARDS), 10)
    assert list(range(shards.SHARDS)) == [it.shard for (it,) in new]
    assert new == await outbox.read_pending(places, 10)
    assert [[]] * shards.SHARDS == await other.read_new(range(shards.SHARDS), 10)
    claimed = await other.claim(places, 10, idle_ms=0)
    assert new == [it.entries for it in claimed]
    await other.forget(
        {
            entry.shard: Leaving(refused={entry.entry_id: "why"})
            if entry.shard % 2
            else Leaving(done=[entry.entry_id])
            for (entry,) in new
        }
    )

    assert [[]] * shards.SHARDS == await other.read_pending(places, 10)
    parked = [("XLEN", f"{shards.tag(shard)}:parked") for shard in range(shards.SHARDS)]
    assert [0, 1] * (shards.SHARDS // 2) == await redis.call_many(parked)


async def test_positions_are_anywhere(redis):
    for number in range(20):
        positions = Positions(redis, f"node-{number}")
        assert {} == await positions.load()
        await positions.save({7: Position(number, "a"), 8: Position(1, "b")})
        await positions.save({8: None})
        assert {7: Position(number, "a")} == await positions.load()


async def test_positions_outlive_their_node_for_as_long_as_ids(redis):
    """From its first commit on, and anew while it lives, at rest too."""
    key = "th:ledger:node"
    await Positions(redis, "node").save({7: Position(1, "a")})
    first = await redis.call("TTL", key)
    await redis.call("EXPIRE", key, 9)
    keeping = asyncio.create_task(Positions(redis, "node").keep())
    async with asyncio.timeout(30):
        while await redis.call("TTL", key) < 10:  # noqa: ASYNC110  # Redis decides
            await asyncio.sleep(0.01)
    keeping.cancel()

    assert KEPT_SECONDS - 10 <= first <= KEPT_SECONDS == 35 * 86_400
    assert {7: Position(1, "a")} == await Positions(redis, "node").load()


async def test_credentials_are_anywhere(redis):
    """Key and tenant are hashes of two slots, read in one call or two."""
    for tenant in tenants()[:8]:
        key = {"key_id": "k", "tenant": tenant, "scopes": ""}
        await redis.call("HSET", "th:key:v1:digest", *_flat(key))
        owner = {"plan": "demo", "state": "active"}
        await redis.call("HSET", f"th:tenant:{tenant}", *_flat(owner))
        for guess in (None, tenant, "other"):
            found = await Credentials(redis).find("k", ["v1:digest"], guess)
            assert found is not None
            assert tenant == found.principal.tenant


def _flat(fields):
    return [it for pair in fields.items() for it in pair]


def test_tenants_and_keys_are_kept_in_a_single_redis():
    """Their changes are transactions over several slots; the error says what to do."""
    with pytest.raises(ValueError, match="need a single Redis"):
        Keyring("redis+cluster://127.0.0.1:7000,127.0.0.1:7001", None)


async def test_billing_windows_are_in_their_own_slots(redis):
    windows = Windows(redis, time.time)
    hour = int(time.time()) // 3600
    names = tenants()
    postings = [
        Posting(
            record_id=exchange_id(now_ms(), os.urandom(10)),
            created_hour=hour,
            kind=UsageKind.FINAL,
            tenant=tenant,
            model="m1",
            hour=hour,
            usage=TokenUsage(10, 5),
        )
        for tenant in names
    ]
    assert len(names) == (await windows.apply(postings)).applied
    assert len(names) == (await windows.apply(postings)).duplicates
    rows = await windows.rows(
        tenant="", from_hour=hour, to_hour=hour + 1, after=None, limit=1000
    )

    assert sorted(names) == [row.tenant for row in rows]
    assert len({slot_of(f"{{b{it}}}") for it in range(BILLING_SHARDS)}) > 1


async def test_chunks_of_all_shards_are_sealed_and_sent(redis):
    """Every script of theirs keeps to one slot."""
    hour = int(time.time()) // 3600 - 2
    windows, chunks = Windows(redis, time.time), Chunks(redis)
    leadership = Leadership(redis, "here")
    await leadership.renew()
    names = tenants()
    await windows.apply(
        [
            Posting(
                record_id=exchange_id(hour * 3_600_000, os.urandom(10)),
                created_hour=hour,
                kind=UsageKind.FINAL,
                tenant=tenant,
                model="m1",
                hour=hour,
                usage=TokenUsage(10, 5),
            )
            for tenant in names
        ]
    )
    now = int(time.time()) + 7200
    for row in await chunks.due_rows(leadership.shards, now, 1000):
        account = Account("here", row.tenant)
        await chunks.seal(row, account, now=now, next_due=now + 3600)
    opened = await chunks.due(leadership.shards, now, 1000)
    sent = Answer(Verdict.ACCEPTED)
    for it in opened:
        begun = await chunks.begin(it, now=now, until=now + 15)
        assert begun is not None
        decide = partial(conclude, number=1, answer=sent, now=now)
        await chunks.conclude(begun, decide, now=now, look_at=now)
    closed = await Dedupe(redis, hours=48).forget(now)

    assert 2 * len(names) == len(opened)
    assert Backlog(0, 0, 0, 0) == await Backlogs(redis).look(now)
    assert abs(closed - (hour + 2 - 49)) <= 1


async def test_experience_is_shared_over_all_nodes(redis):
    limiter, experience = Limiter(redis), Experience()
    found = await reserved(limiter)
    for _ in range(60):
        taught = [lesson(it, now_ms()) for it in settlements(found)]
        await Lessons(redis).teach(filter(None, taught))
    assert {None} == {experience.output(tenant, "m1") for tenant in tenants()}
    await Refresher(redis, experience).refresh(experience.wishes)

    for tenant in tenants():
        output = experience.output(tenant, "m1")
        assert output is not None
        assert 30 <= output <= 35
    await limiter.close()


async def test_workers_find_each_other(redis):
    first, second = (Workers(redis, name) for name in ("w1", "w2"))
    for worker in (first, second, first):
        await worker._beat()

    assert [Share(0, 2), Share(1, 2)] == [first.share, second.share]
