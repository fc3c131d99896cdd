"""The settler on a real Redis and a real file: every line once, nothing lost."""

import asyncio
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from tests import examples
from tests.redis_process import running_redis
from tollhouse.adapters.ledger import LedgerReader
from tollhouse.adapters.metrics import Fault
from tollhouse.adapters.redis.client import Redis, RedisReplyError
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.positions import Positions
from tollhouse.adapters.redis.reaper import Reaper
from tollhouse.adapters.redis.shards import shard
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Debit, Limit, Measure, Scope
from tollhouse.core.problems import Unavailable
from tollhouse.core.reservation import Granted, Reservation
from tollhouse.extproc.settler import Settler

TENANT = "acme"
OUTBOX = f"{{s{shard(TENANT)}}}:outbox"
LEASES = f"{{s{shard(TENANT)}}}:leases"
LIMITS = tuple(
    Limit(scope, measure, value)
    for scope in (Scope.KEY, Scope.TENANT_MODEL)
    for measure, value in ((Measure.UNITS, 60_000), (Measure.CONCURRENT, 100))
)
FACTS = examples.facts(
    tenant=TENANT,
    input_estimate=10,
    output_estimate=18,
    debits=tuple(
        Debit(it.scope, it.measure, it.value if it.measure.is_bucket else 0)
        for it in LIMITS
    ),
)
SOON = 30.0


def new_id(number):
    return exchange_id(time.time_ns() // 1_000_000, number.to_bytes(10))


def line(id_, *, admitted=True, kind="DownstreamEnd", facts=FACTS, ago_seconds=0):
    return (
        json.dumps(
            {
                "type": kind,
                "exchange": id_,
                "tenant": TENANT,
                "key_id": "k",
                "admitted": admitted or None,
                "facts": facts.encode().decode() if admitted else None,
                "meter": "sse,9,7,1,11,22,0,-,0,0,DF,0" if admitted else None,
                "started_at": f"{time.time() - ago_seconds:.3f}",
                "duration_ms": 5,
                "code": 200,
                "flags": "-",
                "upstream_host": "h:1",
            }
        ).encode()
        + b"\n"
    )


async def within(seconds, condition):
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # another process decides
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def settling(
    redis, path, told=None, *, faults=None, limiter=None, learn=lambda _: None
):
    """A settler at work until the block ends, as if it were killed then."""
    reader = LedgerReader(path)
    told = set() if told is None else told
    settler = Settler(
        reader,
        Positions(redis, "node"),
        limiter or Limiter(redis),
        Reaper(redis),
        redis,
        settled=told.update,
        learn=learn,
        tell=lambda *_: None,
        faulty=([] if faults is None else faults).append,
    )
    task = asyncio.create_task(settler.read())
    try:
        yield settler
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        reader.close()


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger.jsonl"


async def reserve(limiter, id_):
    granted = await limiter.reserve(Reservation(id_, FACTS, LIMITS))
    assert isinstance(granted, Granted)


def append(path, *lines):
    with path.open("ab") as file:
        file.write(b"".join(lines))


async def test_says_when_the_last_line_is_settled(redis, limiter, ledger):
    """Asked right behind it: whoever ends then leaves nothing."""
    async with settling(redis, ledger) as settler:
        for number in range(3):
            id_ = new_id(number)
            await reserve(limiter, id_)
            append(ledger, line(id_))
            await settler.settled()

            assert 0 == await redis.call("ZCARD", LEASES)
            offset = ledger.stat().st_size
            places = await redis.call("HVALS", "th:ledger:node")
            assert [offset] == [int(it.split()[0]) for it in places]


async def test_has_nothing_to_say_of_anothers_ledger(redis, ledger):
    """The reader's own process waits for it."""
    append(ledger, line(new_id(1)))
    with LedgerReader(ledger) as other:
        assert other.lock()
        async with settling(redis, ledger) as settler, asyncio.timeout(SOON):
            await settler.settled()


async def test_settles_releases_and_tells_the_relay(redis, limiter, ledger):
    """An admitted exchange yields a record, one that was not yields none."""
    admitted, refused = new_id(1), new_id(2)
    await reserve(limiter, admitted)
    await reserve(limiter, refused)
    append(ledger, line(admitted), line(refused, admitted=False))
    told: set[int] = set()

    async with settling(redis, ledger, told):

        async def done():
            return await redis.call("ZCARD", LEASES) == 0

        await within(SOON, done)

    entries = await redis.call("XRANGE", OUTBOX, "-", "+")
    assert [admitted.encode()] == [
        dict(zip(fields[::2], fields[1::2], strict=True))[b"id"]
        for _, fields in entries
    ]
    assert {shard(TENANT)} == told


@pytest.mark.parametrize("kind", ["DownstreamEnd", "DownstreamPeriodic"])
async def test_a_broken_key_stands_in_the_way_of_no_other(redis, ledger, kind):
    """Somebody's string where a limit's leases belong: all is billed all the same."""
    await redis.call("SET", f"{{s{shard(TENANT)}}}:concurrent:key:k", "rubbish")
    broken, other = new_id(1), new_id(2)
    append(ledger, line(broken, kind=kind), line(broken))
    append(ledger, line(other, facts=replace(FACTS, key_id="other")))

    faults: list[Fault] = []
    with capture_logs() as logs:
        async with settling(redis, ledger, faults=faults):
            # Not for the records: they are there before the failure is told.
            await within(SOON, Positions(redis, "node").load)

    assert await settled(redis, 2)
    assert "lines.failed" in {it["event"] for it in logs}
    failed = [it["exchange_id"] for it in logs if it["event"] == "line.failed"]
    assert other not in failed
    assert [Fault.FAILED] * len(failed) == faults


async def test_a_line_that_redis_will_not_settle_is_counted(redis, ledger):
    """It is passed over, like one that can't be read; its lease is reaped."""

    class Refusing(Limiter):
        async def apply(self, releases, beats, settlements):
            raise RedisReplyError("ERR a script is wrong")

    faults: list[Fault] = []
    append(ledger, line(new_id(1)), line(new_id(2), admitted=False))

    async with settling(redis, ledger, faults=faults, limiter=Refusing(redis)):
        await within(SOON, Positions(redis, "node").load)

    assert [Fault.FAILED, Fault.FAILED] == faults


async def test_a_broken_reservation_is_reaped_with_the_others(redis, limiter):
    """It can't be read: its lease goes; the others are billed."""
    broken, other = new_id(1), new_id(2)
    for id_ in (broken, other):
        await reserve(limiter, id_)
    await redis.call("SET", f"{{s{shard(TENANT)}}}:exchange:{broken}", "R 1 1\nx\n{")
    await redis.call("ZADD", LEASES, "XX", 1, broken, 1, other)

    await Reaper(redis).reap_expired()

    assert 0 == await redis.call("ZCARD", LEASES)
    assert 1 == await redis.call("XLEN", OUTBOX)


async def test_a_beat_keeps_the_lease(redis, limiter, ledger):
    """A running exchange is not reaped."""
    id_ = new_id(1)
    await reserve(limiter, id_)
    before = float(await redis.call("ZSCORE", LEASES, id_))
    await asyncio.sleep(0.05)
    append(ledger, line(id_, kind="DownstreamPeriodic"))

    async with settling(redis, ledger):

        async def extended():
            return float(await redis.call("ZSCORE", LEASES, id_)) > before

        await within(SOON, extended)


async def test_a_settler_that_dies_is_followed_by_one_that_repeats(
    redis, limiter, ledger
):
    """Killed between a settlement and its commit: the record is there once."""
    ids = [new_id(number) for number in range(20)]
    for id_ in ids:
        await reserve(limiter, id_)
    append(ledger, *map(line, ids))

    async def done():
        return await redis.call("XLEN", OUTBOX) == len(ids)

    async with settling(redis, ledger):
        await within(SOON, done)
    await redis.call("DEL", "th:ledger:node")  # as if it had not committed
    extra = new_id(99)
    append(ledger, line(extra))
    async with settling(redis, ledger):

        async def one_more():
            return await redis.call("XLEN", OUTBOX) > len(ids)

        await within(SOON, one_more)

    assert len(ids) + 1 == await redis.call("XLEN", OUTBOX)


async def test_a_ledger_that_is_read_again_teaches_nothing(redis, ledger):
    """What was settled before was learned from then."""
    ids = [new_id(number) for number in range(4)]
    append(ledger, *map(line, ids[:3]))
    learned: list[str] = []

    def learn(settlements):
        learned.extend(it.exchange_id for it in settlements)

    async with settling(redis, ledger, learn=learn):
        await within(SOON, Positions(redis, "node").load)
    await redis.call("DEL", "th:ledger:node")
    append(ledger, line(ids[3]))
    async with settling(redis, ledger, learn=learn):
        await within(SOON, Positions(redis, "node").load)

    assert ids == learned


@pytest.mark.parametrize("error", [Unavailable("gone"), RedisReplyError("ERR wrong")])
async def test_an_answer_that_was_lost_is_no_reason_to_learn_twice(
    redis, ledger, error
):
    """Who wrote it is unknown then: what has just ended did not come by before."""

    class Losing(Limiter):
        has_lost = False

        async def apply(self, releases, beats, settlements):
            written = await super().apply(releases, beats, settlements)
            if not self.has_lost:
                self.has_lost = True
                raise error
            return written

    half_an_hour_ms = 1_800_000
    old = exchange_id(time.time_ns() // 1_000_000 - half_an_hour_ms, bytes(10))
    new = new_id(2)
    append(ledger, line(old, ago_seconds=1800), line(new))
    learned: list[str] = []

    async with settling(
        redis,
        ledger,
        limiter=Losing(redis),
        learn=lambda them: learned.extend(it.exchange_id for it in them),
    ):
        await within(SOON, Positions(redis, "node").load)

    assert [new] == learned


async def test_goes_on_at_the_committed_position(redis, limiter, ledger):
    """What was committed is not read again after a restart."""
    append(ledger, line(new_id(1)))

    positions = Positions(redis, "node")

    async with settling(redis, ledger):
        await within(SOON, positions.load)

    ((inode, position),) = (await positions.load()).items()
    status = ledger.stat()
    assert (status.st_ino, status.st_size) == (inode, position.offset)


async def records(redis):
    """What is in the outbox, oldest first."""
    entries = await redis.call("XRANGE", OUTBOX, "-", "+")
    return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]


async def test_what_a_dead_settler_left_in_renamed_files_comes_first(
    redis, limiter, ledger
):
    """Renamed twice while nobody read: finished in order, then the new one."""
    ids = [new_id(number) for number in range(4)]
    append(ledger, line(ids[0]))
    async with settling(redis, ledger):
        await within(SOON, lambda: settled(redis, 1))
        await within(SOON, Positions(redis, "node").load)
    append(ledger, line(ids[1]))
    ages = ((ids[2], ".2", 20), (ids[3], ".1", 10))
    for id_, name, age in ages:
        older = ledger.rename(ledger.with_name(ledger.name + name))
        os.utime(older, (0, time.time() - age))
        append(ledger, line(id_))

    async with settling(redis, ledger):
        await within(SOON, lambda: settled(redis, 4))

    assert [id_.encode() for id_ in ids] == [it[b"id"] for it in await records(redis)]


async def test_a_deleted_files_inode_hides_no_line(redis, limiter, ledger):
    """Another file of its inode, as large as where we were, is read from its start."""
    old, new = new_id(1), new_id(2)
    append(ledger, line(old))
    async with settling(redis, ledger):
        await within(SOON, lambda: settled(redis, 1))
        await within(SOON, Positions(redis, "node").load)
    ledger.write_bytes(line(new))

    async with settling(redis, ledger):
        await within(SOON, lambda: settled(redis, 2))

    assert [old.encode(), new.encode()] == [it[b"id"] for it in await records(redis)]


async def test_what_is_replayed_hours_later_is_of_its_own_hour(redis, ledger):
    """It ended when it ended; today's limits know nothing of it."""
    ago_seconds = 5 * 3600
    then_ms = time.time_ns() // 1_000_000 - ago_seconds * 1000
    ids = [exchange_id(then_ms, number.to_bytes(10)) for number in range(3)]
    append(
        ledger.with_name(ledger.name + ".1"),
        *(
            line(id_, kind=kind, ago_seconds=ago_seconds)
            for id_ in ids
            for kind in ("DownstreamPeriodic", "DownstreamEnd")
        ),
    )

    async with settling(redis, ledger):
        await within(SOON, lambda: settled(redis, len(ids)))

    for record in await records(redis):
        assert abs(int(record[b"ended_ms"]) - then_ms) < 2000
    kept = {it.decode() for it in await redis.call("KEYS", "*")}
    assert set() == {it for it in kept if ":bucket:" in it or ":concurrent:" in it}
    assert 0 == await redis.call("ZCARD", LEASES)


async def test_an_unreadable_line_holds_up_nobody(redis, limiter, ledger):
    """Rubbish is logged and passed over; its neighbours are settled."""
    one, other = new_id(1), new_id(2)
    append(ledger, line(one), b"rubbish\n", line(other))
    faults: list[Fault] = []

    async with settling(redis, ledger, faults=faults):

        async def both():
            return await redis.call("XLEN", OUTBOX) == 2

        await within(SOON, both)

    assert [Fault.MISREAD] == faults


@contextlib.asynccontextmanager
async def reaping(redis, path, *, reads=True, grace_seconds=0.1):
    """A settler that reaps, of a ledger it reads or only knows; what it tells."""
    told: set[int] = set()
    with LedgerReader(path) as reader:
        settler = Settler(
            reader,
            Positions(redis, "node"),
            Limiter(redis),
            Reaper(redis),
            redis,
            settled=told.update,
            learn=lambda _: None,
            tell=lambda *_: None,
            reap_seconds=0.02,
            grace_seconds=grace_seconds,
        )
        parts = [settler.reap, settler.read] if reads else [settler.reap]
        tasks = [asyncio.create_task(part()) for part in parts]
        try:
            yield told
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_reaps_what_nobody_ended(redis, ledger):
    """Envoy died with it: the estimate is billed, and the relay told."""
    await reserve(Limiter(redis, lease_seconds=0.05), new_id(1))

    async with reaping(redis, ledger) as told:
        await within(SOON, lambda: settled(redis, 1))
        await within(SOON, lambda: asyncio.sleep(0, result=bool(told)))

    ((_, fields),) = await redis.call("XRANGE", OUTBOX, "-", "+")
    record = dict(zip(fields[::2], fields[1::2], strict=True))
    assert (b"3", b"%d" % FACTS.input_estimate, b"0") == (
        record[b"kind"],
        record[b"in"],
        record[b"out"],
    )
    assert {shard(TENANT)} == told


@pytest.mark.parametrize("why", [{"reads": False}, {"grace_seconds": 60.0}])
async def test_reaps_nothing_that_may_still_be_told(redis, ledger, why):
    """Its end may be in the ledger, or its beats have had no Redis to go to."""
    await reserve(Limiter(redis, lease_seconds=0.05), new_id(1))

    async with reaping(redis, ledger, **why):
        await asyncio.sleep(0.3)

    assert await settled(redis, 0)


@pytest.mark.timed
async def test_reaps_nothing_while_it_reads_a_backlog(redis, ledger):
    """A reader that was stopped may hold the very end it is about to reap."""
    backlog = [line(new_id(number)) for number in range(4000)]
    last = new_id(5000)
    # Ready made: the lease must not end before the lines are there.
    lines = b"".join([*backlog, line(last)])

    async with reaping(redis, ledger):
        await asyncio.sleep(0.2)  # it has read all there is
        await reserve(Limiter(redis, lease_seconds=0.15), last)
        append(ledger, lines)
        await within(SOON, lambda: settled(redis, len(backlog) + 1))

    ((_, fields),) = await redis.call("XREVRANGE", OUTBOX, "+", "-", "COUNT", 1)
    record = dict(zip(fields[::2], fields[1::2], strict=True))
    assert (last.encode(), b"1") == (record[b"id"], record[b"kind"])


async def test_while_redis_is_away_the_ledger_waits(ledger):
    """The position stands still; when Redis is back every line is settled."""
    append(ledger, *(line(new_id(number)) for number in range(5)))
    with tempfile.TemporaryDirectory(prefix="th-redis-") as folder:
        with running_redis(Path(folder)) as server:
            redis = await Redis.connect(server.url, budget_seconds=1.0)
        async with settling(redis, ledger):
            await asyncio.sleep(0.3)
            with running_redis(Path(folder)):
                await within(SOON, lambda: settled(redis, 5))
        await redis.close()


async def settled(redis, number):
    """Whether so many records are in the outbox; false while Redis is away."""
    try:
        return number == await redis.call("XLEN", OUTBOX)
    except Unavailable:
        return False
