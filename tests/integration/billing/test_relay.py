"""From the outbox to the windows: real Redis, relay and aggregator processes."""

import asyncio
import signal
import time
from typing import cast

import pytest
import redis

from tests.integration.billing.conftest import Aggregator, Part, StartRelay
from tests.integration.billing.records import (
    Record,
    books,
    mixed,
    outbox_length,
    settle,
    wait_drained,
    wait_until,
    windows,
)
from tests.redis_process import running_redis
from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis import outbox as outbox_module
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.outbox import FIRST, GROUP, Outbox, Standing
from tollhouse.adapters.redis.shards import SHARDS, outbox, refused, shard
from tollhouse.adapters.remote import Remote
from tollhouse.core.problems import ProtocolError
from tollhouse.extproc import relay as relay_module
from tollhouse.extproc.relay import Relay


@pytest.fixture
async def running(client: Redis, aggregator: Aggregator):
    """A relay in this process that sweeps too rarely to help."""
    relay = Relay(Outbox(client, "here"), Remote(aggregator.target), sweep_seconds=3600)
    task = asyncio.create_task(relay.run())
    yield relay
    assert not task.done(), task
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def drained(db: redis.Redis) -> None:
    await asyncio.to_thread(wait_drained, db)


async def test_the_aggregator_hears_how_old_the_outbox_is(
    client: Redis, aggregator: Aggregator, db: redis.Redis
):
    """And so does whoever watches: by it ids are kept, and an alarm rings."""
    seen: list[Standing] = []
    relay = Relay(
        Outbox(client, "here"),
        Remote(aggregator.target),
        linger_seconds=3600,
        sweep_seconds=3600,
        watch_seconds=0.05,
        watched=seen.append,
    )
    old = db.time()[0] - 7200
    waiting = outbox(shard("acme"))
    # Pending with a relay that never comes back: it stays for the length of the test.
    db.xadd(waiting, Record.make().fields(), id=f"{old}000-0")  # type: ignore[arg-type]
    db.xgroup_create(waiting, GROUP, "0-0")
    db.xreadgroup(GROUP, "gone", {waiting: ">"})
    task = asyncio.create_task(relay.run())
    watermarks = billing_keys.WATERMARKS
    await asyncio.to_thread(wait_until, lambda: db.exists(watermarks), "told")
    told = db.hgetall(watermarks)
    db.delete(waiting)
    await asyncio.to_thread(
        wait_until, lambda: db.hgetall(watermarks) != told, "told that it is empty"
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    id_ = db.get("th:outbox")
    assert {id_: str(old).encode()} == told
    assert abs(int(db.hgetall(watermarks)[id_]) - db.time()[0]) < 5  # type: ignore[index]
    assert (1, old * 1000) == (seen[0].entries, seen[0].oldest_ms)
    assert (0, seen[-1].now_ms) == (seen[-1].entries, seen[-1].oldest_ms)


async def test_what_was_refused_is_counted_and_keeps_its_hour(
    client: Redis, db: redis.Redis
):
    """Somebody has to see it, and may send it again days later."""
    old_ms = (db.time()[0] - 3 * 86_400) * 1000
    db.xadd(refused(3), Record.make().fields(), id=f"{old_ms}-0")  # type: ignore[arg-type]

    standing = await Outbox(client, "here").standing()

    assert (0, 1) == (standing.entries, standing.refused)
    assert (standing.now_ms, old_ms) == (standing.oldest_ms, standing.kept_from_ms)


@pytest.mark.timed
async def test_a_notified_record_is_there_soon(running: Relay, db: redis.Redis):
    """No sweep is waited for: what the settler knows is moved at once."""
    await drained(db)
    record = Record.make()
    settle(db, [record])
    started = time.monotonic()
    running.notify({shard("acme")})
    await drained(db)
    took = time.monotonic() - started

    assert books([record]) == windows(db)
    assert took < 1.0


async def test_records_written_before_the_group_existed_count(
    start_relay: StartRelay, db: redis.Redis
):
    records = mixed(700, tenants=40)
    settle(db, records)

    start_relay("extproc-0")
    wait_drained(db)

    assert books(records) == windows(db)


def test_two_relays_share_the_work(start_relay: StartRelay, db: redis.Redis):
    first, second = start_relay("extproc-0"), start_relay("extproc-1")
    records = mixed(3000, tenants=30)
    for start in range(0, 3000, 100):
        settle(db, records[start : start + 100])
        time.sleep(0.005)
    wait_drained(db)

    assert books(records) == windows(db)
    assert first.process is not None
    assert second.process is not None
    assert [None, None] == [first.process.poll(), second.process.poll()]


def test_what_a_killed_relay_held_another_claims(
    start_relay: StartRelay, aggregator: Aggregator, db: redis.Redis
):
    """Entries handed to a dead relay are pending, not lost."""
    records = mixed(300)
    assert aggregator.process is not None
    aggregator.process.send_signal(signal.SIGSTOP)
    dead = start_relay("extproc-0")
    settle(db, records)
    wait_until(lambda: pending(db) == 300, "handed out")
    dead.kill()
    aggregator.process.send_signal(signal.SIGCONT)

    start_relay("extproc-1")
    wait_drained(db)

    assert books(records) == windows(db)


def test_a_killed_relay_goes_on_where_it_was(
    start_relay: StartRelay, aggregator: Aggregator, db: redis.Redis
):
    """It reads its own pending entries and waits for no idle time."""
    records = mixed(300)
    aggregator.kill()
    relay = start_relay("extproc-0", claim_idle_seconds=3600)
    settle(db, records)
    wait_until(lambda: pending(db) == 300, "handed out")
    relay.kill()
    aggregator.start()
    relay.start()
    wait_drained(db)

    assert books(records) == windows(db)


def test_an_aggregator_that_is_away_costs_nothing(
    start_relay: StartRelay, aggregator: Aggregator, db: redis.Redis
):
    """More than a relay holds waits in the outbox; memory stays bounded."""
    relay = start_relay("extproc-0")
    records = mixed(200)
    settle(db, records)
    wait_drained(db)
    aggregator.kill()
    late = mixed(3000)
    settle(db, late)
    wait_until(lambda: pending(db) == relay_module.MOST_HELD, "full")
    wait_until(lambda: "aggregator.lost" in relay.log, "told")
    time.sleep(0.5)

    assert relay_module.MOST_HELD == pending(db)
    assert 1 == relay.log.count("aggregator.lost")

    aggregator.start()
    wait_drained(db)

    assert books(records + late) == windows(db)


def test_kills_of_everything_lose_and_double_nothing(
    start_relay: StartRelay, aggregator: Aggregator, db: redis.Redis
):
    """Relays and the aggregator die again and again while records come."""
    relays = [start_relay("extproc-0"), start_relay("extproc-1")]
    parts: list[Part] = [*relays, aggregator]
    records = mixed(3000, tenants=20)
    for number, start in enumerate(range(0, 3000, 300)):
        settle(db, records[start : start + 300])
        time.sleep(0.05 + number % 4 * 0.05)
        victim = parts[number % 3]
        victim.kill()
        victim.start()
    wait_drained(db)

    assert books(records) == windows(db)


def test_refused_and_unreadable_records_are_parked(
    start_relay: StartRelay, db: redis.Redis
):
    """They leave the outbox with their reason and hold up nobody."""
    relay = start_relay("extproc-0")
    good = mixed(50, tenants=1)
    bad = Record.make(tenant="tenant-0", model="no|such|name")
    place = outbox(shard("tenant-0"))
    parked = place.replace("outbox", "parked")
    settle(db, [*good[:25], bad])
    db.xadd(place, {"id": "half", "kind": "1"})
    settle(db, good[25:])
    wait_drained(db)
    wait_until(lambda: relay.log.count("record.parked") >= 2, "told")
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", db.xrange(parked))
    found = {
        fields[b"id"].decode(): (fields.get(b"in"), fields[b"reason"].decode())
        for _, fields in entries
    }

    assert books(good) == windows(db)
    assert found == {
        bad.record_id: (b"10", "served_model 'no|such|name' is not a model's name"),
        "half": (None, "outbox entry without b'facts'"),
    }
    assert 2 == relay.log.count("record.parked")


async def test_redis_restarts_with_its_file(
    tmp_path, aggregator: Aggregator, db: redis.Redis
):
    """The relay waits for its Redis; AOF keeps entries, group and pending list."""
    folder = tmp_path / "outbox"
    folder.mkdir()
    records = mixed(300)
    with running_redis(folder, appendonly="yes") as server:
        client = await Redis.connect(server.url)
        relay = Relay(
            Outbox(client, "here"),
            Remote(aggregator.target),
            sweep_seconds=0.2,
            claim_idle_seconds=0.5,
        )
        task = asyncio.create_task(relay.run())
        aggregator.kill()
        with redis.Redis.from_url(server.url) as source:
            settle(source, records[:200])
            await asyncio.to_thread(wait_until, lambda: pending(source) == 200, "read")
    aggregator.start()
    await asyncio.sleep(0.5)
    with (
        running_redis(folder, appendonly="yes") as server,
        redis.Redis.from_url(server.url) as source,
    ):
        settle(source, records[200:])
        await drained(source)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()

    assert books(records) == windows(db)


async def test_an_emptied_redis_does_not_stop_the_relay(
    start_relay: StartRelay, db: redis.Redis
):
    """Groups are made anew."""
    relay = start_relay("extproc-0")
    settle(db, mixed(10))
    await drained(db)
    db.flushall()
    records = mixed(10)
    settle(db, records)
    await drained(db)

    assert books(records) == windows(db)
    assert relay.process is not None
    assert relay.process.poll() is None


@pytest.mark.timed
async def test_a_lost_answer_of_redis_is_asked_for_again(
    client: Redis,
    aggregator: Aggregator,
    db: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
):
    """The read took place, its answer came too late: the entries are pending."""
    monkeypatch.setattr(outbox_module, "BUDGET_SECONDS", 0.2)
    relay = Relay(Outbox(client, "here"), Remote(aggregator.target), sweep_seconds=3600)
    task = asyncio.create_task(relay.run())
    settle(db, [Record.make()])
    relay.notify({shard("acme")})
    await drained(db)
    record = Record.make()
    settle(db, [record])
    db.execute_command("CLIENT", "PAUSE", 600)
    relay.notify({shard("acme")})
    await asyncio.sleep(0.7)
    await drained(db)
    task.cancel()
    await asyncio.wait([task])

    assert 2 == sum(
        number for name, number in windows(db).items() if name.endswith(" final")
    )


async def test_deleted_entries_do_not_stay_pending(client: Redis, db: redis.Redis):
    """Redis 6.2 names them only to who reads its own pending entries."""
    theirs, ours = Outbox(client, "theirs"), Outbox(client, "ours")
    records = [Record.make() for _ in range(3)]
    settle(db, records)
    number = shard("acme")
    ((first, *_),) = await theirs.read_new([number], 10)
    db.xdel(outbox(number), first.entry_id)

    (claimed,) = await ours.claim([(number, FIRST)], 10, 0)
    (again,) = await ours.read_pending([(number, FIRST)], 10)

    assert [it.record_id for it in records[1:]] == [
        (entry.fields or {})[b"id"].decode() for entry in claimed.entries
    ]
    assert FIRST == claimed.next_id
    deleted = [entry.entry_id for entry in again if entry.fields is None]
    assert deleted == ([first.entry_id] if claimed.has_deleted else [])


async def test_deleted_entries_of_a_dead_relay_are_cleared(
    start_relay: StartRelay, client: Redis, db: redis.Redis
):
    records = [Record.make() for _ in range(3)]
    settle(db, records)
    ((first, *_),) = await Outbox(client, "dead").read_new([shard("acme")], 10)
    db.xdel(outbox(shard("acme")), first.entry_id)

    start_relay("extproc-0")
    await drained(db)

    assert books(records[1:]) == windows(db)


async def test_a_part_that_ends_ends_the_relay(client: Redis):
    """Also one that was cancelled from elsewhere: a TaskGroup would let it go."""

    async def returns() -> None:
        pass

    async def is_cancelled() -> None:
        raise asyncio.CancelledError

    for part in (returns, is_cancelled):
        relay = Relay(
            Outbox(client, "here"), Remote("unix:/nowhere"), sweep_seconds=3600
        )
        relay._forget = part  # type: ignore[method-assign]
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(relay.run(), 30)
        assert caught.group_contains(ProtocolError)


def pending(db: redis.Redis) -> int:
    """Entries some relay was given and has not let go."""
    total = 0
    for number in range(SHARDS):
        if db.exists(outbox(number)):
            for group in db.xinfo_groups(outbox(number)):
                assert GROUP == group["name"].decode()
                total += group["pending"]
    return total


def test_helpers_see_what_is_left(db: redis.Redis):
    settle(db, mixed(3))

    assert 3 == outbox_length(db)
