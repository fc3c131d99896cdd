"""The limiter on Redis' own clock: waits, lifetimes, and many at once."""

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from tests.integration.limits.model import dump, shard_of
from tests.integration.limits.rig import facts
from tests.redis_process import running_redis
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Allowance, Granted, Refused, Reservation
from tollhouse.core.problems import Unavailable
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

ANY = Allowance()
HOUR = 3600
SHARD = shard_of("acme")


def fresh_id():
    return exchange_id(time.time_ns() // 1_000_000, os.urandom(10))


def ask(key=ANY, tenant_model=ANY, **changes):
    about = facts(key, tenant_model, **changes)
    return Reservation(fresh_id(), about, key, tenant_model)


def settlement(reservation, **changes):
    now_ms = time.time_ns() // 1_000_000
    plain: dict[str, Any] = {
        "exchange_id": reservation.exchange_id,
        "facts": reservation.facts,
        "kind": UsageKind.FINAL,
        "usage": TokenUsage(10, 20),
        "input_source": CountSource.BACKEND,
        "output_source": CountSource.BACKEND,
        "started_ms": now_ms - 1000,
        "first_ms": now_ms - 500,
        "ended_ms": now_ms,
        "flags": "",
    }
    return Settlement(**(plain | changes))


def beat(reservation, usage):
    now_ms = time.time_ns() // 1_000_000
    return Beat(
        exchange_id=reservation.exchange_id,
        facts=reservation.facts,
        usage=usage,
        input_source=CountSource.METER,
        output_source=CountSource.METER,
        started_ms=now_ms - 1000,
        first_ms=0,
        at_ms=now_ms,
    )


async def test_many_workers_admit_no_more_than_one(redis_url):
    """Two connections, hundreds at once: exactly what the limits hold."""
    clients = [await Redis.connect(redis_url, budget_seconds=2) for _ in range(2)]
    for limits, admitted in (
        ((Allowance(concurrent=7), ANY), 7),
        ((Allowance(requests_per_minute=1, burst_seconds=60 * 9), ANY), 9),
        ((Allowance(units_per_minute=1, burst_seconds=60 * 1150), ANY), 11),
    ):
        limiters = [Limiter(client) for client in clients]
        answers = await asyncio.gather(
            *(
                limiter.reserve(ask(*limits, key_id=f"k{admitted}"))
                for _ in range(100)
                for limiter in limiters
            )
        )

        assert admitted == sum(isinstance(it, Granted) for it in answers)
    for client in clients:
        await client.close()


async def test_a_retry_at_the_time_named_succeeds(limiter):
    """And one before it does not: the wait is the real refill."""
    limits = Allowance(units_per_minute=60_000, burst_seconds=0.3)
    await limiter.reserve(ask(limits, reserved_units=250))
    refused = await limiter.reserve(ask(limits, reserved_units=200))

    assert isinstance(refused, Refused)
    assert ("units", "key", 60_000) == (
        refused.limit,
        refused.scope,
        refused.limit_value,
    )
    assert refused.retry_after_seconds is not None
    assert 0.1 < refused.retry_after_seconds <= 0.15
    await asyncio.sleep(refused.retry_after_seconds - 0.05)
    assert isinstance(await limiter.reserve(ask(limits, reserved_units=200)), Refused)
    await asyncio.sleep(0.055)
    assert isinstance(await limiter.reserve(ask(limits, reserved_units=200)), Granted)


@pytest.mark.parametrize(
    ("limits", "name", "scope"),
    [
        ((Allowance(units_per_minute=60), ANY), "units", "key"),
        ((ANY, Allowance(units_per_minute=60)), "units", "tenant_model"),
        ((Allowance(requests_per_minute=0), ANY), "requests", "key"),
        ((ANY, Allowance(concurrent=0)), "concurrent", "tenant_model"),
    ],
)
async def test_what_can_never_fit_is_told_no_time(
    limiter, inspector, limits, name, scope
):
    refused = await limiter.reserve(ask(*limits))

    assert isinstance(refused, Refused)
    assert (name, scope) == (refused.limit, refused.scope)
    assert None is refused.retry_after_seconds
    assert {} == dump(inspector, SHARD)


async def test_a_refusal_by_one_limit_takes_nothing_from_the_others(limiter, inspector):
    """All are checked before any is written."""
    wide, narrow = Allowance(600, 60_000, 10), Allowance(600, 60_000, 1)
    await limiter.reserve(ask(wide, narrow))
    before = dump(inspector, SHARD)

    refused = await limiter.reserve(ask(wide, narrow))

    assert isinstance(refused, Refused)
    assert ("concurrent", "tenant_model", 1, 0) == (
        refused.limit,
        refused.scope,
        refused.limit_value,
        refused.remaining,
    )
    assert before == dump(inspector, SHARD)


async def test_granted_tells_the_tightest_scope(limiter):
    key, tenant_model = Allowance(60, 6000), Allowance(600, 600)
    granted = await limiter.reserve(ask(key, tenant_model, reserved_units=30))

    assert isinstance(granted, Granted)
    assert granted.requests is not None
    assert granted.units is not None
    assert (60, 9) == (granted.requests.limit, granted.requests.remaining)
    assert (600, 70) == (granted.units.limit, granted.units.remaining)
    assert 3.0 == pytest.approx(granted.units.reset_seconds, abs=0.01)


async def test_a_repeated_reserve_pays_once(limiter, inspector):
    """A call that timed out was applied: its repeat gets the answer, not a second."""
    mine = ask(Allowance(60, 60_000, 1), ANY)
    first = await limiter.reserve(mine)
    again = await limiter.reserve(mine)

    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert first.requests is not None
    assert again.requests is not None
    assert first.requests.remaining == again.requests.remaining


async def test_a_reserve_that_comes_late_is_refused(limiter):
    """Released, then its RESERVE arrives: nothing may be held for nobody."""
    mine = ask(Allowance(60, 60_000, 1), ANY)
    await limiter.apply([Release(mine.exchange_id, "acme")], [], [])

    with pytest.raises(Unavailable) as caught:
        await limiter.reserve(mine)

    assert not caught.value.transient


async def test_everything_is_forgotten_in_time(limiter, inspector):
    """Buckets once drained; exchanges once no late message can name them."""
    limits = Allowance(60, 6000)
    open_, settled, released, reaped = (ask(limits, ANY) for _ in range(4))
    for mine in (open_, settled, released):
        await limiter.reserve(mine)
    await limiter.settle_many([settlement(settled)])
    await limiter.release(released)
    short = Limiter(limiter._redis, lease_seconds=0.0)
    await short.reserve(reaped)
    await short.reap([(SHARD, reaped.exchange_id)])

    def left(name):
        return inspector.pttl(f"{{s{SHARD}}}:{name}") / 1000

    expected = {
        f"exchange:{open_.exchange_id}": 48 * HOUR,
        f"exchange:{settled.exchange_id}": HOUR,
        f"exchange:{released.exchange_id}": HOUR,
        f"exchange:{reaped.exchange_id}": 24 * HOUR,
        "bucket:key:k1:requests": 3,
        "bucket:key:k1:units": (100 + 10 + 20 * 5 + 100) / 100,
    }
    (sums,) = (key for key in dump(inspector, SHARD) if key.startswith("settled"))
    expected[sums] = 40 * 24 * HOUR
    for name, seconds in expected.items():
        assert seconds == pytest.approx(left(name), abs=0.5), name
    await asyncio.sleep(left("bucket:key:k1:requests") + 0.05)
    assert 0 == inspector.exists(f"{{s{SHARD}}}:bucket:key:k1:requests")


async def test_expired_leases_are_found_in_every_shard(redis, inspector):
    """One look, whoever's they are; a beat in time keeps one open."""
    limiter = Limiter(redis, lease_seconds=0.0)
    alive = Limiter(redis, lease_seconds=20.0)
    mine = [ask(tenant=f"tenant-{n}") for n in range(40)]
    for one in mine:
        await limiter.reserve(one)
    await alive.beat_many([beat(mine[0], TokenUsage(1, 1))])
    expired = await limiter.expired()
    shards = await limiter.reap(expired)

    assert {(shard_of(it.facts.tenant), it.exchange_id) for it in mine[1:]} == set(
        expired
    )
    assert {shard_of(it.facts.tenant) for it in mine[1:]} == shards
    assert [] == await limiter.expired()
    assert set() == await limiter.reap_expired()
    records = [
        fields
        for shard in shards
        for _, fields in inspector.xrange(f"{{s{shard}}}:outbox")
    ]
    assert 39 == len(records)
    assert {(b"3", b"50", b"0", b"3")} == {
        (it[b"kind"], it[b"in"], it[b"out"], it[b"out_src"]) for it in records
    }


async def test_a_ledger_is_applied_at_once_and_twice(limiter, inspector):
    """Releases, beats and settlements of one poll; a reader that died repeats them."""
    gone, running, over = (ask(ANY, Allowance(concurrent=9)) for _ in range(3))
    for mine in (gone, running, over):
        await limiter.reserve(mine)
    inspector.script_flush()
    stretch = (
        [Release(gone.exchange_id, "acme"), Release(fresh_id(), "acme")],
        [beat(running, TokenUsage(5, 6)), beat(over, TokenUsage(7, 8))],
        [settlement(over)],
    )
    first = await limiter.apply(*stretch)
    books = dump(inspector, SHARD)
    second = await limiter.apply(*stretch)

    assert ({SHARD}, set()) == (first, second)
    assert [running.exchange_id] == list(books["leases"])
    assert 1 == len(books["outbox"])
    assert books["outbox"] == dump(inspector, SHARD)["outbox"]
    assert [over.exchange_id] == [entry["id"] for entry in books["outbox"]]


async def test_the_largest_counts_at_the_largest_weights_are_recorded(
    limiter, inspector
):
    """A script that ends at a number too large leaves no record, and says settled."""
    slow = Allowance(units_per_minute=1)
    mine = ask(slow, slow, weights=(1000, 0, 1000))
    most = TokenUsage(99_999_999, 99_999_999, reasoning_tokens=99_999_999)

    assert {SHARD} == await limiter.settle_many([settlement(mine, usage=most)])
    (entry,) = dump(inspector, SHARD)["outbox"]
    assert ("99999999", "99999999") == (entry["in"], entry["out"])


async def test_an_old_ledger_is_billed_but_fills_no_limit(limiter, inspector):
    """Replayed into an empty Redis it would else refuse its tenants for days."""
    mine = ask(Allowance(units_per_minute=100), ANY)
    hour_ago_ms = time.time_ns() // 1_000_000 - HOUR * 1000
    old = settlement(
        mine,
        exchange_id=exchange_id(hour_ago_ms - 1000, os.urandom(10)),
        ended_ms=hour_ago_ms,
    )
    await limiter.settle_many([old])

    books = dump(inspector, SHARD)
    assert [old.exchange_id] == [entry["id"] for entry in books["outbox"]]
    assert [] == [key for key in books if key.startswith("bucket")]

    await limiter.settle_many([settlement(mine)])
    assert "bucket:key:k1:units" in dump(inspector, SHARD)


async def test_a_beat_brings_back_what_redis_lost(limiter, inspector):
    """Else it would run unseen: not counted, and never billed if its Envoy dies."""
    mine = ask(ANY, Allowance(concurrent=1))
    await limiter.reserve(mine)
    inspector.flushall()
    await limiter.beat_many([beat(mine, TokenUsage(3, 4))])

    refused = await limiter.reserve(ask(ANY, Allowance(concurrent=1)))

    assert isinstance(refused, Refused)
    assert "concurrent" == refused.limit


async def test_an_exchange_that_was_reaped_too_early_is_taken_back(limiter, inspector):
    """Never admitted after all: its record is undone by an adjustment."""
    short = Limiter(limiter._redis, lease_seconds=0.0)
    mine = ask(Allowance(60, 60_000), ANY)
    await short.reserve(mine)
    await short.reap([(SHARD, mine.exchange_id)])
    shards = await limiter.apply([Release(mine.exchange_id, "acme")], [], [])

    assert {SHARD} == shards
    reaped, adjustment = dump(inspector, SHARD)["outbox"]
    assert ("3", "50") == (reaped["kind"], reaped["in"])
    assert ("4", "-50") == (adjustment["kind"], adjustment["in"])
    assert mine.exchange_id == adjustment["corrects"]
    assert reaped["ended_ms"] == adjustment["ended_ms"]


async def test_a_stalled_redis_refuses_within_the_budget():
    """Never an open door, never a stall."""
    with running_redis() as server:
        redis = await Redis.connect(server.url, budget_seconds=0.05)
        limiter = Limiter(redis)
        await limiter.reserve(ask())
        server.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            await limiter.reserve(ask())

        assert caught.value.transient
        assert time.monotonic() - started < 0.2
        server.process.send_signal(signal.SIGCONT)
        await redis.close()


async def test_a_full_redis_settles_nothing_and_then_all():
    """OOM: no half of a step is ever written, and the repeat does the whole."""
    with running_redis() as server:
        redis = await Redis.connect(server.url, budget_seconds=1)
        limiter = Limiter(redis, lease_seconds=0.0)
        mine = ask(Allowance(60, 60_000, 2), ANY)
        await limiter.reserve(mine)
        await redis.call("CONFIG", "SET", "maxmemory", 1)
        for step in (
            lambda: limiter.reserve(ask()),
            lambda: limiter.settle_many([settlement(mine)]),
            lambda: limiter.beat_many([beat(mine, TokenUsage(500, 500))]),
            lambda: limiter.reap([(SHARD, mine.exchange_id)]),
        ):
            with pytest.raises(Unavailable, match="OOM"):
                await step()
        await redis.call("CONFIG", "SET", "maxmemory", 0)

        assert {SHARD} == await limiter.settle_many([settlement(mine)])
        await redis.close()
