"""The limiter on Redis' own clock: waits, lifetimes, slots, and many at once."""

import asyncio
import dataclasses
import os
import signal
import time
from typing import Any

import pytest
from msgspec.structs import replace

from tests.integration.limits import rig
from tests.integration.limits.keys import dump
from tests.integration.limits.rig import shards_of
from tests.redis_process import running_redis, secret_file
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.reaper import Reaper
from tollhouse.adapters.redis.shards import FLEET, shard
from tollhouse.adapters.redis.steps import CLOSED_MS
from tollhouse.core.buckets import GRAINS
from tollhouse.core.exchange import RESTORE_MS, Beat, Release, Settlement
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Allowance, Limit, Measure, Scope
from tollhouse.core.problems import Unavailable
from tollhouse.core.reservation import Granted, Refused, Reservation
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

HOUR = 3600
MINUTE_MS = 60_000
SHARD = shard("acme")
TAG = f"{{s{SHARD}}}"


def fresh_id():
    return exchange_id(time.time_ns() // 1_000_000, os.urandom(10))


def limits(scope, *values, **named):
    """Limits of one scope, as an allowance has them."""
    return tuple(Allowance(*values, **named).limits(scope, "UTC"))


def ask(*asked, **changes):
    return rig.ask(fresh_id(), *asked, **changes)


def charged(reservation, granted):
    """As the ledger tells it."""
    facts = replace(reservation.facts, debits=granted.debits)
    return Reservation(reservation.exchange_id, facts, reservation.limits)


async def taken(limiter, *asked, **changes):
    """An exchange that was granted."""
    reservation = ask(*asked, **changes)
    return charged(reservation, await limiter.reserve(reservation))


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


def replace_beat(told, ms):
    """The same, written some time after (or before)."""
    return dataclasses.replace(told, at_ms=told.at_ms + ms)


@pytest.mark.parametrize("scope", Scope)
async def test_many_workers_admit_no_more_than_one(redis_url, scope):
    """Two connections, hundreds at once: exactly what the limits hold."""
    clients = [await Redis.connect(redis_url, budget_seconds=2) for _ in range(2)]
    for limit, admitted in (
        (Limit(scope, Measure.CONCURRENT, 7), 7),
        (Limit(scope, Measure.REQUESTS, 1, burst=60 * 9), 9),
        (Limit(scope, Measure.UNITS, 1, burst=60 * 1150), 11),
        (Limit(scope, Measure.UNITS_PER_MONTH, 1250), 12),
        (Limit(scope, Measure.MONEY_PER_DAY, 220 * 6), 6),
    ):
        limiters = [Limiter(client) for client in clients]
        answers = await asyncio.gather(
            *(limiter.reserve(ask(limit)) for _ in range(60) for limiter in limiters)
        )

        assert admitted == sum(isinstance(it, Granted) for it in answers)
    for client in clients:
        await client.close()


@pytest.mark.timed
async def test_a_retry_at_the_time_named_succeeds(limiter):
    """And one before it does not: the wait is the real refill."""
    limit = Limit(Scope.KEY, Measure.UNITS, 60_000, burst=0.3)
    await limiter.reserve(ask(limit, reserved_units=250))
    refused = await limiter.reserve(ask(limit, reserved_units=200))

    assert isinstance(refused, Refused)
    assert limit == refused.limit
    assert refused.retry_after_seconds is not None
    assert 0.1 < refused.retry_after_seconds <= 0.15
    await asyncio.sleep(refused.retry_after_seconds - 0.05)
    assert isinstance(await limiter.reserve(ask(limit, reserved_units=200)), Refused)
    await asyncio.sleep(0.055)
    assert isinstance(await limiter.reserve(ask(limit, reserved_units=200)), Granted)


@pytest.mark.parametrize("scope", [Scope.KEY, Scope.TENANT_MODEL, Scope.MODEL])
@pytest.mark.parametrize(
    ("measure", "value"),
    [
        (Measure.UNITS, 60),
        (Measure.UNITS_PER_DAY, 99),
        (Measure.MONEY_PER_MONTH, 219),
        *((measure, 0) for measure in Measure if measure is not Measure.CAPACITY),
    ],
)
async def test_what_can_never_fit_is_told_no_time(
    limiter, inspector, scope, measure, value
):
    limit = Limit(scope, measure, value)
    refused = await limiter.reserve(ask(*limits(Scope.TENANT, 600, 6000), limit))

    assert isinstance(refused, Refused)
    assert (limit, None) == (refused.limit, refused.retry_after_seconds)
    assert {} == dump(inspector)


async def test_a_refusal_by_one_limit_takes_nothing_from_the_others(limiter, inspector):
    """All are checked before any is written."""
    wide = limits(Scope.KEY, 600, 60_000, 10, 1000, 1000, 10**6, 10**6)
    narrow = limits(Scope.TENANT_MODEL, 600, 60_000, 1)
    await limiter.reserve(ask(*wide, *narrow))
    before = dump(inspector)

    refused = await limiter.reserve(ask(*wide, *narrow))

    assert isinstance(refused, Refused)
    assert (narrow[2], 0) == (refused.limit, refused.remaining)
    after = dump(inspector)
    assert [f"{TAG}:concurrent:model:acme:m1"] == list(after.pop(f"{TAG}:promises"))
    assert before == after


async def test_what_a_tenants_limit_refuses_the_fleet_gets_back(limiter, inspector):
    """In the background, whole, and without a trace: it may be asked again."""
    shared = (
        Limit(Scope.MODEL, Measure.CAPACITY, 5000, weight=3),
        *limits(Scope.GLOBAL, 600, 60_000, 9, 1000, money_per_month=10**6),
    )
    place = Limit(Scope.TENANT, Measure.CONCURRENT, 1)
    first = await taken(limiter, place)
    mine = ask(place, *shared)
    refused = await limiter.reserve(mine)
    await limiter.close()

    assert isinstance(refused, Refused)
    assert place == refused.limit
    assert [] == [key for key in dump(inspector) if key.startswith("{m0}")]
    await limiter.settle_many([settlement(first)])
    assert isinstance(await limiter.reserve(mine), Granted)


async def test_the_fleet_refuses_before_the_tenant_is_asked(limiter, inspector):
    shared = Limit(Scope.GLOBAL, Measure.CONCURRENT, 0)
    own = limits(Scope.KEY, 60, 6000)
    refused = await limiter.reserve(ask(*own, shared))

    assert isinstance(refused, Refused)
    assert (shared, (0, 0, 0)) == (refused.limit, refused.levels)
    assert (None, None) == (refused.requests, refused.units)
    assert {} == dump(inspector)


async def test_granted_tells_what_was_charged(limiter):
    """Debits for the facts, levels in the order asked, quotas of the tightest scope."""
    asked = (
        *limits(Scope.KEY, 60, 6000),
        *limits(Scope.GLOBAL, 6000, concurrent=5),
        *limits(Scope.TENANT_MODEL, 600, 600, 7),
    )
    granted = await limiter.reserve(ask(*asked, reserved_units=30))

    assert isinstance(granted, Granted)
    assert {(it.scope, it.measure) for it in asked} == {
        (it.scope, it.measure) for it in granted.debits
    }
    full, units = GRAINS, 30 * GRAINS
    assert (full, units, full, 1, full, units, 1) == granted.levels
    assert granted.requests is not None
    assert granted.units is not None
    assert (60, 9) == (granted.requests.limit, granted.requests.remaining)
    assert (600, 70) == (granted.units.limit, granted.units.remaining)
    assert 3.0 == pytest.approx(granted.units.reset_seconds, abs=0.01)


@pytest.mark.parametrize("scope", [Scope.TENANT, Scope.MODEL])
async def test_a_shadow_refuses_nobody_and_shows_who_it_would(
    limiter, inspector, scope
):
    """It is charged while there is room: its state is what enforcing would give."""
    shadow = Limit(scope, Measure.CONCURRENT, 1, shadow=True)
    wide = Limit(Scope.KEY, Measure.CONCURRENT, 9)
    granted = [await limiter.reserve(ask(shadow, wide)) for _ in range(3)]

    assert [(), (shadow,), (shadow,)] == [it.shadowed for it in granted]
    assert [2, 1, 1] == [len(it.debits) for it in granted]
    assert [(1, 1), (1, 2), (1, 3)] == [it.levels for it in granted]
    (key,) = (
        key for key in dump(inspector) if ":concurrent:" in key and "k1" not in key
    )
    assert 1 == inspector.zcard(key)


async def test_a_repeated_reserve_pays_once(limiter, inspector):
    """A call that timed out was applied: its repeat gets the answer, not a second."""
    shadow = Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 50, shadow=True)
    own = limits(Scope.KEY, 60, 60_000, 1, 100, 100, 220, 220)
    mine = ask(*own, *limits(Scope.GLOBAL, 60, 60_000, 1, 100, 100, 220, 220), shadow)
    first = await limiter.reserve(mine)
    again = await limiter.reserve(mine)

    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert (first.debits, first.shadowed) == (again.debits, again.shadowed)
    assert ((shadow,), 14) == (first.shadowed, len(first.debits))
    assert first.requests is not None
    assert again.requests is not None
    assert first.requests.remaining == again.requests.remaining


async def test_a_further_request_counts_where_the_stream_is_charged(limiter, inspector):
    """In the periods it began in, though its id is of the day before."""
    yesterday = exchange_id(time.time_ns() // 1_000_000 - 24 * HOUR * 1000, bytes(10))
    day = limits(Scope.TENANT, units_per_day=250)
    first = rig.ask(yesterday, *day)
    so_far = charged(first, await limiter.reserve(first)).facts
    further = dataclasses.replace(first, ordinal=2, so_far=so_far)

    granted = await limiter.reserve(further)
    third = dataclasses.replace(first, ordinal=3, so_far=further.whole)
    refused = await limiter.reserve(third)

    assert isinstance(granted, Granted)
    assert so_far.debits == granted.debits
    assert isinstance(refused, Refused)
    assert Measure.UNITS_PER_DAY is refused.limit.measure
    (budget,) = (it for it in dump(inspector) if ":budget:" in it)
    assert b"200" == inspector.get(budget)


async def test_a_reserve_that_comes_late_is_refused(limiter):
    """Released, then its RESERVE arrives: nothing may be held for nobody."""
    mine = ask(*limits(Scope.KEY, 60, 60_000, 1))
    await limiter.apply([Release(mine.exchange_id, "acme")], [], [])

    with pytest.raises(Unavailable) as caught:
        await limiter.reserve(mine)

    assert not caught.value.transient


@pytest.mark.timed
async def test_everything_is_forgotten_in_time(limiter, reaper, inspector):
    """Buckets once drained; exchanges once no late message can name them."""
    asked = (
        *limits(Scope.KEY, 60, 6000),
        Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 1000),
    )
    open_, settled, released, reaped = [ask(*asked) for _ in range(4)]
    granted = [await limiter.reserve(mine) for mine in (open_, settled, released)]
    await limiter.settle_many([settlement(charged(settled, granted[1]))])
    await limiter.release(released)
    short = Limiter(limiter._redis, lease_seconds=0.0)
    await short.reserve(reaped)
    await reaper.reap([(SHARD, reaped.exchange_id)])

    def left(name):
        return inspector.pttl(f"{TAG}:{name}") / 1000

    day = time.strftime("%Y%m%d", time.gmtime())
    seconds_left = 24 * HOUR - time.time() % (24 * HOUR)
    expected = {
        f"exchange:{open_.exchange_id}": 48 * HOUR,
        f"exchange:{settled.exchange_id}": HOUR,
        f"exchange:{released.exchange_id}": HOUR / 6,
        f"exchange:{reaped.exchange_id}": 24 * HOUR,
        "bucket:key:k1:requests": 3,
        "bucket:key:k1:units": (100 + 10 + 20 * 5 + 100) / 100,
        f"budget:tenant:acme:units:{day}": seconds_left + (3 * 24 + 14) * HOUR,
    }
    (sums,) = (key for key in dump(inspector) if ":settled:" in key)
    expected[sums.removeprefix(f"{TAG}:")] = 40 * 24 * HOUR
    for name, seconds in expected.items():
        assert seconds == pytest.approx(left(name), abs=0.5), name
    await asyncio.sleep(left("bucket:key:k1:requests") + 0.05)
    assert 0 == inspector.exists(f"{TAG}:bucket:key:k1:requests")


async def test_expired_leases_are_found_in_every_shard(redis, reaper, inspector):
    """One look, whoever's they are; a beat in time keeps one open."""
    limiter = Limiter(redis, lease_seconds=0.0)
    alive = Limiter(redis, lease_seconds=20.0)
    mine = [await taken(limiter, tenant=f"tenant-{n}") for n in range(40)]
    await alive.beat_many([beat(mine[0], TokenUsage(1, 1))])
    expired = await reaper.expired()
    shards = shards_of(await reaper.reap(expired))

    assert {(shard(it.facts.tenant), it.exchange_id) for it in mine[1:]} == set(expired)
    assert {shard(it.facts.tenant) for it in mine[1:]} == shards
    assert [] == await reaper.expired()
    assert [] == await reaper.reap_expired()
    records = [
        fields
        for number in shards
        for _, fields in inspector.xrange(f"{{s{number}}}:outbox")
    ]
    assert 39 == len(records)
    assert {(b"3", b"50", b"0", b"3")} == {
        (it[b"kind"], it[b"in"], it[b"out"], it[b"out_src"]) for it in records
    }


async def test_what_is_reaped_in_the_fleet_writes_no_record(limiter, reaper, inspector):
    """Its leases and units in flight go; buckets and budgets keep what they have."""
    short = Limiter(limiter._redis, lease_seconds=0.0)
    shared = (
        Limit(Scope.MODEL, Measure.CAPACITY, 5000),
        *limits(Scope.MODEL, None, 60_000, 5, 1000),
    )
    mine = await taken(short, *shared)

    expired = await reaper.expired()
    assert {(SHARD, mine.exchange_id), (FLEET, mine.exchange_id)} == set(expired)
    assert {SHARD} == shards_of(await reaper.reap(expired))
    assert [] == await reaper.expired()
    books = {key for key in dump(inspector) if key.startswith("{m0}")}
    day = time.strftime("%Y%m%d", time.gmtime())
    assert books == {
        f"{{m0}}:exchange:{mine.exchange_id}",
        "{m0}:bucket:model:m1:units",
        f"{{m0}}:budget:model:m1:units:{day}",
    }
    assert {SHARD} == shards_of(await limiter.settle_many([settlement(mine)]))
    spent = inspector.get(f"{{m0}}:budget:model:m1:units:{day}")
    assert b"110" == spent, "the late settlement corrects both slots"


async def test_a_ledger_is_applied_at_once_and_twice(limiter, inspector):
    """Releases, beats and settlements of one poll; a reader that died repeats them."""
    asked = (
        *limits(Scope.TENANT_MODEL, concurrent=9),
        *limits(Scope.GLOBAL, None, None, 9, 1000),
    )
    gone, running, over = [await taken(limiter, *asked) for _ in range(3)]
    inspector.script_flush()
    stretch = (
        [Release(gone.exchange_id, "acme"), Release(fresh_id(), "acme")],
        [beat(running, TokenUsage(5, 6)), beat(over, TokenUsage(7, 8))],
        [settlement(over)],
    )
    first = await limiter.apply(*stretch)
    books = dump(inspector)
    second = await limiter.apply(*stretch)

    assert (stretch[2], []) == (first, second)
    again = dump(inspector)
    for key in (f"{TAG}:leases", "{m0}:leases", "{m0}:concurrent:global"):
        assert [running.exchange_id] == list(books[key]) == list(again[key])
    (outbox,) = (key for key in books if key.endswith(":outbox"))
    assert [over.exchange_id] == [entry["id"] for entry in books[outbox]]
    assert books[outbox] == again[outbox]
    (budget,) = (key for key in books if ":budget:" in key)
    assert f"{10 + 20 * 5 + 100}" == books[budget] == again[budget]


async def test_the_largest_counts_at_the_largest_weights_are_recorded(
    limiter, inspector
):
    """A script that ends at a number too large leaves no record, and says settled."""
    slow = [Limit(scope, Measure.UNITS, 1, burst=1e7) for scope in Scope]
    spent = [Limit(scope, Measure.MONEY_PER_DAY, 2**53) for scope in Scope]
    dear = {"weights": (1000, 0, 1000), "prices": (10**8, 0, 10**8)}
    mine = await taken(limiter, *slow, *spent, **dear, input_estimate=0)
    most = TokenUsage(99_999_999, 99_999_999, reasoning_tokens=99_999_999)

    assert {SHARD} == shards_of(
        await limiter.settle_many([settlement(mine, usage=most)])
    )
    (entry,) = dump(inspector)[f"{TAG}:outbox"]
    assert ("99999999", "99999999") == (entry["in"], entry["out"])


async def test_an_old_ledger_is_billed_but_fills_no_limit(limiter, inspector):
    """Replayed into an empty Redis it would else refuse its tenants for days."""
    mine = await taken(limiter, *limits(Scope.KEY, units_per_minute=600))
    inspector.flushall()
    hour_ago_ms = time.time_ns() // 1_000_000 - HOUR * 1000
    old = settlement(
        mine,
        exchange_id=exchange_id(hour_ago_ms - 1000, os.urandom(10)),
        ended_ms=hour_ago_ms,
    )
    await limiter.settle_many([old])

    books = dump(inspector)
    assert [old.exchange_id] == [entry["id"] for entry in books[f"{TAG}:outbox"]]
    assert [] == [key for key in books if ":bucket:" in key]

    await limiter.settle_many([settlement(mine)])
    assert f"{TAG}:bucket:key:k1:units" in dump(inspector)


async def test_most_of_an_hour_away_is_charged_to_budgets(limiter, inspector):
    """Else what was spent while Redis was away could be spent once more."""
    ago_ms = time.time_ns() // 1_000_000 - 50 * 60_000
    mine = ask(*limits(Scope.TENANT, units_per_month=1000))
    granted = await limiter.reserve(mine)
    inspector.flushall()
    id_ = exchange_id(ago_ms - 1000, os.urandom(10))
    late = settlement(charged(mine, granted), exchange_id=id_, ended_ms=ago_ms)
    await limiter.settle_many([late])

    assert [b"110"] == inspector.mget(inspector.keys("*:budget:*"))
    assert CLOSED_MS - RESTORE_MS >= MINUTE_MS


async def test_of_what_redis_never_knew_time_has_drained_its_part(limiter, inspector):
    """Admitted while it was away: else its tenant were refused for as long again."""
    mine = await taken(limiter, *limits(Scope.KEY, None, 600, None, 1000))
    inspector.flushall()
    ago_ms = time.time_ns() // 1_000_000 - 6000
    id_ = exchange_id(ago_ms - 1000, os.urandom(10))
    await limiter.settle_many([settlement(mine, exchange_id=id_, ended_ms=ago_ms)])

    used, _ = map(int, inspector.get(f"{TAG}:bucket:key:k1:units").split())
    assert 110 - 60 == pytest.approx(used / GRAINS, abs=5)
    (budget,) = inspector.mget(inspector.keys("*:budget:*"))
    assert b"110" == budget, "a budget forgets nothing"


async def test_a_beat_brings_back_what_redis_lost(limiter, inspector):
    """Else it would run unseen: not counted, and never billed if its Envoy dies."""
    asked = (
        Limit(Scope.TENANT_MODEL, Measure.CONCURRENT, 1),
        Limit(Scope.MODEL, Measure.CAPACITY, 20),
    )
    mine = await taken(limiter, *asked)
    inspector.flushall()
    await limiter.beat_many([beat(mine, TokenUsage(3, 4))])

    for limit in asked:
        refused = await limiter.reserve(ask(limit))
        assert isinstance(refused, Refused)
        assert limit == refused.limit


@pytest.mark.parametrize("scope", [Scope.KEY, Scope.GLOBAL])
async def test_what_was_reaped_too_early_keeps_its_place(
    limiter, reaper, inspector, scope
):
    """Its settler was away, not its Envoy: it runs on, and so says its beat."""
    place = Limit(scope, Measure.CONCURRENT, 1)
    short = Limiter(limiter._redis, lease_seconds=0.0)
    mine = await taken(short, place)
    await reaper.reap_expired()
    old = replace_beat(beat(mine, TokenUsage(1, 1)), -30_000)
    await limiter.beat_many([old])
    assert [] == inspector.keys("*:concurrent:*"), "its Envoy may be gone by now"

    await limiter.beat_many([beat(mine, TokenUsage(1, 1))])
    assert isinstance(await limiter.reserve(ask(place)), Refused)
    assert {SHARD} == shards_of(await limiter.settle_many([settlement(mine)]))
    assert isinstance(await limiter.reserve(ask(place)), Granted)
    kinds = [entry["kind"] for entry in dump(inspector)[f"{TAG}:outbox"]]
    assert ["3", "4"] == kinds


async def test_an_exchange_that_was_reaped_too_early_is_taken_back(
    limiter, reaper, inspector
):
    """Never admitted after all: its record is undone by an adjustment."""
    short = Limiter(limiter._redis, lease_seconds=0.0)
    mine = ask(*limits(Scope.KEY, 60, 60_000), *limits(Scope.GLOBAL, units_per_day=999))
    await short.reserve(mine)
    await reaper.reap_expired()
    written = await limiter.apply([Release(mine.exchange_id, "acme")], [], [])

    assert {SHARD} == shards_of(written)
    books = dump(inspector)
    reaped, adjustment = books[f"{TAG}:outbox"]
    assert ("3", "50") == (reaped["kind"], reaped["in"])
    assert ("4", "-50") == (adjustment["kind"], adjustment["in"])
    assert mine.exchange_id == adjustment["corrects"]
    assert reaped["ended_ms"] == adjustment["ended_ms"]
    assert [] == [key for key in books if ":budget:" in key]


async def test_a_worker_releases_in_both_slots(limiter, inspector):
    """It may not know whether it was granted; a RESERVE that comes late is refused."""
    mine = ask(*limits(Scope.KEY, 60, 600, 1), *limits(Scope.GLOBAL, 60, 600, 1, 100))
    await limiter.reserve(mine)
    await limiter.release(mine)

    assert {
        f"{TAG}:exchange:{mine.exchange_id}": "X",
        f"{{m0}}:exchange:{mine.exchange_id}": "X",
    } == dump(inspector)
    with pytest.raises(Unavailable):
        await limiter.reserve(mine)


async def test_the_ledger_leaves_no_trace_in_the_fleet_of_what_was_not_there(
    limiter, inspector
):
    """A flood of refusals is no load on the slot that all tenants share."""
    await limiter.apply([Release(fresh_id(), "acme")], [], [])

    assert [] == [key for key in dump(inspector) if key.startswith("{m0}")]


async def test_without_the_tenants_slot_the_fleet_gets_its_part_back(tmp_path):
    """A call that fails halfway holds nothing."""
    with running_redis() as server:
        server.ask("ACL", "SETUSER", "half", "on", ">secret", "~{m0}:*", "+@all")
        half = RedisAccess(server.url, "half", secret_file(tmp_path, "secret"))
        redis = await Redis.connect(half, budget_seconds=1)
        limiter = Limiter(redis)
        with pytest.raises(Unavailable, match="NOPERM"):
            await limiter.reserve(ask(Limit(Scope.GLOBAL, Measure.CONCURRENT, 1)))
        await limiter.close()

        assert [] == server.ask("KEYS", "*")
        await redis.close()


class Halfway(Redis):
    """Answers for the fleet's slot, and not in time for a tenant's."""

    def __init__(self, redis):
        super().__init__(redis._servers, 1.0)

    async def call_many(self, commands, *, budget_seconds=None):
        if any(TAG in str(part) for command in commands for part in command):
            raise Unavailable("Redis took too long")
        return await super().call_many(commands, budget_seconds=budget_seconds)


async def test_what_the_fleet_gave_stays_until_the_ledger_says_how_it_went(
    redis, limiter
):
    """A worker may admit it by itself: it must not run uncounted until its first beat.

    Refused, its end line gives it back.
    """
    limit = Limit(Scope.GLOBAL, Measure.CONCURRENT, 1)
    mine = ask(limit)
    halfway = Limiter(Halfway(redis))
    with pytest.raises(Unavailable) as caught:
        await halfway.reserve(mine)
    await halfway.close()

    assert caught.value.transient
    assert isinstance(await limiter.reserve(ask(limit)), Refused)
    await limiter.apply([Release(mine.exchange_id, "acme")], [], [])
    assert isinstance(await limiter.reserve(ask(limit)), Granted)


async def test_what_came_late_into_the_fleet_is_given_back_whole(
    redis, limiter, reaper, inspector
):
    """Its RESERVE was under way when the ledger released it: nothing was ever used."""
    mine = ask(*limits(Scope.GLOBAL, 60, 6000, 1, 1000, money_per_month=10**6))
    await limiter.apply([Release(mine.exchange_id, "acme")], [], [])
    with pytest.raises(Unavailable):
        await Limiter(Halfway(redis), lease_seconds=0.0).reserve(mine)
    assert [key for key in dump(inspector) if "{m0}:budget:" in key]

    assert [] == await reaper.reap_expired()
    left = [key for key in dump(inspector) if key.startswith("{m0}")]
    assert [f"{{m0}}:exchange:{mine.exchange_id}"] == left


@pytest.mark.timed
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
        limiter, reaper = Limiter(redis, lease_seconds=0.0), Reaper(redis)
        mine = await taken(limiter, *limits(Scope.KEY, 60, 60_000, 2))
        await redis.call("CONFIG", "SET", "maxmemory", 1)
        for step in (
            lambda: limiter.reserve(ask()),
            lambda: limiter.settle_many([settlement(mine)]),
            lambda: limiter.beat_many([beat(mine, TokenUsage(500, 500))]),
            lambda: reaper.reap([(SHARD, mine.exchange_id)]),
        ):
            with pytest.raises(Unavailable, match="OOM"):
                await step()
        await redis.call("CONFIG", "SET", "maxmemory", 0)

        assert {SHARD} == shards_of(await limiter.settle_many([settlement(mine)]))
        await redis.close()
