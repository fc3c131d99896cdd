"""The ladder on a real Redis in every trouble it can be in, under load.

Whatever happens, a plan that degrades is answered, one that denies gets 503, and in the
end every exchange that was admitted, by whomever, is settled once.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
import redis as redis_py
import structlog
from msgspec.structs import replace

from tests.integration.limits.keys import dump
from tests.redis_process import running_redis
from tollhouse.adapters.metrics import Metrics
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.workers import Workers
from tollhouse.core import room
from tollhouse.core.buckets import GRAINS
from tollhouse.core.catalog import RedisDown
from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.ids import exchange_id
from tollhouse.core.ledger import judge, parse
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.problems import Unavailable
from tollhouse.core.reservation import Granted, Refused, Reservation
from tollhouse.core.usage import CountSource, Facts, TokenUsage, UsageKind
from tollhouse.extproc.ladder import BUDGET_SECONDS, Ladder
from tollhouse.extproc.trail import Trail

pytestmark = pytest.mark.timed

TROUBLE_SECONDS = 2.0
DENIED_SECONDS = 1.2
"""From then on nobody waits for a 503: ten of four clients have, 250 ms each."""
FIRST_VERDICT_SECONDS = 0.3
"""The budget, and slack of a machine that has other things to do."""
RETURN_SECONDS = 6.0
"""The longest pause of the breaker, of the client's reconnecting, and slack."""
USED = TokenUsage(10, 20)
USED_UNITS = 10 + 20 * 5

ROOMY = (
    Limit(Scope.GLOBAL, Measure.UNITS, 10**9),
    Limit(Scope.KEY, Measure.REQUESTS, 10**6),
    Limit(Scope.KEY, Measure.CONCURRENT, 10**5),
    Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 10**9),
)


def fresh(*limits, units=100):
    facts = Facts(
        tenant="acme",
        key_id="k1",
        plan="demo",
        operation="chat",
        requested_model="m1",
        served_model="m1",
        cluster="c1",
        provider="triton",
        weights=(1, 0, 5),
        reserved_units=units,
        input_estimate=50,
        output_estimate=10,
    )
    id_ = exchange_id(time.time_ns() // 1_000_000, os.urandom(10))
    return Reservation(id_, facts, limits)


async def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@dataclass
class Answer:
    """What one request was told, and when; None: 503."""

    down: RedisDown
    asked_at: float
    took: float
    reservation: Reservation
    verdict: Granted | Refused | None


class Gateway:
    """One worker and its clients."""

    def __init__(self, redis, name):
        self.redis = redis
        self.limiter = Limiter(redis)
        self.workers = Workers(redis, name)
        self.notes: list[bytes] = []
        self.ladder = Ladder(
            self.limiter, self.workers, Metrics(), note=self.notes.append
        )
        self.answers: list[Answer] = []
        self._clients: list[asyncio.Task[None]] = []
        self._is_open = True

    def start(self, down, clients, limits=ROOMY, pause_seconds=0.01):
        """Let some clients ask, one request after the other each."""
        asking = self._ask(down, limits, pause_seconds)
        self._clients.append(asyncio.create_task(asking))
        if clients > 1:
            self.start(down, clients - 1, limits, pause_seconds)

    async def stop(self):
        self._is_open = False
        await asyncio.gather(*self._clients)
        await self.limiter.close()

    async def _ask(self, down, limits, pause_seconds):
        while self._is_open:
            await self.ask(down, fresh(*limits))
            await asyncio.sleep(pause_seconds)

    async def ask(self, down, reservation):
        asked_at, verdict = time.monotonic(), None
        with contextlib.suppress(Unavailable):
            verdict = await self.ladder.reserve(reservation, down, Trail())
        took = time.monotonic() - asked_at
        self.answers.append(Answer(down, asked_at, took, reservation, verdict))


@contextlib.asynccontextmanager
async def gateway(url, name="node/worker"):
    redis = await Redis.connect(url)
    try:
        await until(lambda: redis.connected)
        yield Gateway(redis, name)
    finally:
        await redis.close()


class Place:
    """Where the workers find Redis; who serves there may change."""

    def __init__(self, folder, port):
        self._folder = folder
        self._link = folder / "redis"
        self._names = itertools.count()
        self._stack = contextlib.ExitStack()
        self.server = self.run("first", appendonly="yes", port=port)
        self.lead_to(self.server)

    def run(self, name, **options):
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return self._stack.enter_context(running_redis(folder, **options))

    def lead_to(self, server):
        self.server = server
        link = self._folder / f"link-{next(self._names)}"
        link.symlink_to(server.socket_path)
        link.replace(self._link)

    @property
    def url(self):
        return f"unix://{self._link}"

    def close(self):
        self._stack.close()


@pytest.fixture
def place(tmp_path_factory, free_port):
    place = Place(tmp_path_factory.mktemp("r"), free_port())
    yield place
    place.close()


@contextlib.asynccontextmanager
async def stopped(place):
    """Redis hangs, its connections stay: what was sent is applied afterwards."""
    place.server.process.send_signal(signal.SIGSTOP)
    yield
    place.server.process.send_signal(signal.SIGCONT)


@contextlib.asynccontextmanager
async def paused(place):
    place.server.ask("CLIENT", "PAUSE", round(TROUBLE_SECONDS * 1000))
    yield


@contextlib.asynccontextmanager
async def full(place):
    """Every write fails, settlements too."""
    place.server.ask("CONFIG", "SET", "maxmemory", 1)
    yield
    place.server.ask("CONFIG", "SET", "maxmemory", 0)


@contextlib.asynccontextmanager
async def read_only(place):
    """Demoted, and nobody else is there."""
    place.server.ask("REPLICAOF", "127.0.0.1", 1)
    yield
    place.server.ask("REPLICAOF", "NO", "ONE")


@contextlib.asynccontextmanager
async def busy(place):
    """Somebody's script does not end."""
    place.server.ask("CONFIG", "SET", "lua-time-limit", 20)
    script = threading.Thread(target=_run_for_ever, args=(place.server,))
    script.start()
    yield
    place.server.ask("SCRIPT", "KILL")
    await asyncio.to_thread(script.join)


def _run_for_ever(server):
    with contextlib.suppress(redis_py.ResponseError):
        server.ask("EVAL", "while true do end", 0)


@contextlib.asynccontextmanager
async def dead(place):
    """Killed, and started again on what it had written."""
    place.server.process.kill()
    place.server.process.wait()
    yield
    again = await asyncio.to_thread(place.run, "first", appendonly="yes")
    place.lead_to(again)


@contextlib.asynccontextmanager
async def loading(place):
    """Killed, and there again at once, but for a while it only reads its file."""
    with redis_py.Redis.from_url(place.server.url) as client:
        client.mset({f"ballast:{number}": 1 for number in range(10)})
        pipeline = client.pipeline(transaction=False)
        for number in range(3000):
            pipeline.set(f"ballast:{number}", 1)
        pipeline.execute()
    place.server.process.kill()
    place.server.process.wait()
    delay = ("--key-load-delay", str(round(TROUBLE_SECONDS * 1e6 / 3000)))
    started = asyncio.to_thread(place.run, "first", appendonly="yes", options=delay)
    again = asyncio.create_task(started)
    yield
    place.lead_to(await again)


@contextlib.asynccontextmanager
async def failed_over(place, port):
    """The replica is master now; who was it refuses writes."""
    old = place.server
    new = place.run("second", port=port())
    new.ask("REPLICAOF", "127.0.0.1", old.port)
    up = b"master_link_status:up"
    await until(lambda: up in new.ask("INFO", "replication"))
    old.ask("REPLICAOF", "127.0.0.1", new.port)
    yield
    new.ask("REPLICAOF", "NO", "ONE")
    place.lead_to(new)


TROUBLES = [stopped, paused, full, read_only, busy, dead, loading, failed_over]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda it: it.__name__)
async def test_requests_are_answered_in_every_trouble(place, trouble, free_port):
    """Degraded or denied at once, as their plan says; and the books agree after."""
    troubled = trouble(place, free_port) if trouble is failed_over else trouble(place)
    with structlog.testing.capture_logs() as logs:
        async with gateway(place.url) as worker:
            worker.start(RedisDown.DEGRADE, 6)
            worker.start(RedisDown.DENY, 4)
            await asyncio.sleep(0.4)
            async with troubled:
                began = time.monotonic()
                await asyncio.sleep(TROUBLE_SECONDS)
            ended = time.monotonic()
            restored = await returned(worker)
            await asyncio.sleep(0.2)
            await worker.stop()
            await settle(worker)
            assert_settled_once(place.server, worker.answers)

    degraded = [it for it in worker.answers if it.down is RedisDown.DEGRADE]
    denied = [it for it in worker.answers if it.down is RedisDown.DENY]
    assert {Granted} == {type(it.verdict) for it in degraded}, "never an error"
    # From the first failures on nobody waits but a probe now and then.
    first = min(it.asked_at + it.took for it in degraded if it.asked_at > began)
    away = [it for it in degraded if began + 0.3 < it.asked_at < ended - 0.1]
    waited = [it for it in away if it.took > BUDGET_SECONDS[RedisDown.DEGRADE] / 2]
    assert first - began < FIRST_VERDICT_SECONDS
    assert len(away) > 100
    assert len(waited) <= 5, [it.took for it in waited]
    refused = [it for it in denied if began + 0.3 < it.asked_at < ended - 0.3]
    waited = [it for it in refused if it.asked_at > began + DENIED_SECONDS]
    waited = [it for it in waited if it.took > BUDGET_SECONDS[RedisDown.DENY] / 2]
    assert {None} == {it.verdict for it in refused}
    assert len(waited) <= 5, [it.took for it in waited]
    assert [] != [it for it in denied if it.asked_at > restored and it.verdict]
    for down in RedisDown:
        told = [it["event"] for it in logs if it.get("redis_down") is down]
        assert told == ["limits.degraded", "limits.restored"] * (len(told) // 2)
        assert 2 <= len(told) <= 6


async def returned(worker):
    """When the shared limits judge all plans again."""
    plans = worker.ladder._plans.values()
    await until(lambda: not any(it.breaker.is_open for it in plans), RETURN_SECONDS)
    return time.monotonic()


async def settle(worker):
    """What the ledger asks for when it is read at last; twice, as after a crash."""
    stretch: tuple[Any, ...] = (
        [
            Release(it.reservation.exchange_id, it.reservation.facts.tenant)
            for it in worker.answers
            if not isinstance(it.verdict, Granted)
        ],
        [],
        [settlement(it) for it in worker.answers if isinstance(it.verdict, Granted)],
    )
    async with asyncio.timeout(30):
        for _ in range(2):
            while not await _is_applied(worker.limiter, stretch):
                pass


async def _is_applied(limiter, stretch):
    with contextlib.suppress(Unavailable):  # then all of it is to be repeated
        await limiter.apply(*stretch)
        return True
    return False


def settlement(answer):
    reservation = answer.reservation
    facts = replace(reservation.facts, debits=answer.verdict.debits)
    now_ms = time.time_ns() // 1_000_000
    return end(reservation.exchange_id, facts, now_ms)


def end(id_, facts, ended_ms):
    return Settlement(
        exchange_id=id_,
        facts=facts,
        kind=UsageKind.FINAL,
        usage=USED,
        input_source=CountSource.BACKEND,
        output_source=CountSource.BACKEND,
        started_ms=ended_ms - 10,
        first_ms=ended_ms - 5,
        ended_ms=ended_ms,
        flags="",
    )


def keys_of(server):
    with redis_py.Redis.from_url(server.url) as client:
        return dump(client)


def outbox(keys):
    """The usage records of all shards."""
    outboxes = [it for name, it in keys.items() if name.endswith(":outbox")]
    return [entry for entries in outboxes for entry in entries]


def assert_settled_once(server, answers):
    """One record each, no lease left, and the budget spent by what was used."""
    granted = [
        it.reservation.exchange_id for it in answers if isinstance(it.verdict, Granted)
    ]
    keys = keys_of(server)
    found = [entry["id"] for entry in outbox(keys)]
    spent = [int(it) for name, it in keys.items() if ":budget:" in name]
    assert sorted(granted) == sorted(found)
    assert [len(granted) * USED_UNITS] == spent
    held = [name for name in keys if ":leases" in name or ":concurrent:" in name]
    assert [] == held


async def test_a_redis_that_forgot_its_scripts_is_no_trouble(place):
    """They are loaded and the call repeated: nothing is judged locally."""
    with structlog.testing.capture_logs() as logs:
        async with gateway(place.url) as worker:
            worker.start(RedisDown.DENY, 4)
            for _ in range(5):
                await asyncio.sleep(0.05)
                place.server.ask("SCRIPT", "FLUSH")
            await worker.stop()
            await settle(worker)
            assert_settled_once(place.server, worker.answers)

    assert {Granted} == {type(it.verdict) for it in worker.answers}
    assert [] == logs


async def test_one_failure_is_one_local_verdict(place):
    """No retry, no breaker, not a word: the next request is judged by Redis again."""
    with structlog.testing.capture_logs() as logs:
        async with gateway(place.url) as worker:
            await worker.ask(RedisDown.DENY, fresh(*ROOMY))
            async with stopped(place):
                await worker.ask(RedisDown.DEGRADE, fresh(*ROOMY))
                await worker.ask(RedisDown.DENY, fresh(*ROOMY))
            await until(lambda: place.server.ask("PING"))
            await worker.ask(RedisDown.DENY, fresh(*ROOMY))
            await settle(worker)
            assert_settled_once(place.server, worker.answers)

    shared, local, denied, again = (it.verdict for it in worker.answers)
    assert isinstance(shared, Granted)
    assert isinstance(local, Granted)
    assert None is denied
    assert isinstance(again, Granted)
    assert shared.debits == local.debits
    assert [] == logs


TIGHT = (
    Limit(Scope.GLOBAL, Measure.UNITS, 10**9),
    Limit(Scope.KEY, Measure.REQUESTS, 1200, burst=2),
)


async def test_two_workers_admit_the_limit_and_go_on_from_where_it_was(place):
    """Nearly all that the limit allows, hardly more, whatever worker is asked."""
    async with gateway(place.url, "a") as one, gateway(place.url, "b") as two:
        for _ in range(2):
            await one.workers._beat()
            await two.workers._beat()
        # The burst is used up when Redis goes.
        for worker in (one, two):
            worker.start(RedisDown.DEGRADE, 4, TIGHT)
        await asyncio.sleep(0.5)
        async with stopped(place):
            began = time.monotonic()
            await asyncio.sleep(4.0)
            ended = time.monotonic()
        await one.stop()
        await two.stop()
        answers = one.answers + two.answers
        for worker in (one, two):
            await settle(worker)

    admitted = [
        it.asked_at + it.took
        for it in answers
        if isinstance(it.verdict, Granted) and began < it.asked_at + it.took < ended
    ]
    limit = 20 * (ended - began)
    # In the first moments each worker is still told what Redis said last.
    assert 0.7 * limit < len(admitted) < 1.1 * limit + 4
    away = [it.verdict for it in answers if began + 0.3 < it.asked_at < ended - 0.1]
    refused = [it for it in away if isinstance(it, Refused)]
    assert {TIGHT[1]} == {it.limit for it in refused}
    waits = [it.retry_after_seconds or 0 for it in refused]
    assert 0 < min(waits) <= max(waits) < 1
    assert None not in [it.verdict for it in answers]


async def test_who_used_its_limit_meanwhile_is_not_refused_as_long_again(place):
    """Time has drained what is settled late: a minute of full use, then go on."""
    rule = Limit(Scope.KEY, Measure.UNITS, 60 * 110, burst=5)
    async with gateway(place.url) as worker:
        now_ms = time.time_ns() // 1_000_000
        late = [late_settlement(rule, now_ms - 1000 * it) for it in range(60)]
        await worker.limiter.apply([], [], late)
        verdict = await worker.ladder.reserve(fresh(rule), RedisDown.DENY, Trail())

    assert isinstance(verdict, Granted)
    assert 60 == len(outbox(keys_of(place.server)))
    assert verdict.levels[0] / GRAINS < 100 + 2 * USED_UNITS


def late_settlement(rule, ended_ms):
    """Admitted by a worker alone, one a second: all that the limit allows."""
    facts = replace(fresh().facts, debits=(room.debit(rule, ended_ms),))
    return end(exchange_id(ended_ms - 10, os.urandom(10)), facts, ended_ms)


async def test_an_exchange_that_is_over_is_no_failure_of_redis(place):
    """Released while it asked: neither Redis nor we may admit it any more."""
    async with gateway(place.url) as worker:
        mine = fresh(*ROOMY)
        await worker.ladder.release(mine, Trail())
        for _ in range(12):
            with pytest.raises(Unavailable) as caught:
                await worker.ladder.reserve(mine, RedisDown.DEGRADE, Trail())
            assert not caught.value.transient
        await worker.ask(RedisDown.DENY, fresh(*ROOMY))

    assert isinstance(worker.answers[0].verdict, Granted)


async def test_nothing_is_released_while_redis_is_left_alone(place):
    """The ledger does it: a client that leaves must cost no call, nor a warning."""
    async with gateway(place.url) as worker:
        async with stopped(place):
            for _ in range(10):
                await worker.ask(RedisDown.DEGRADE, fresh(*ROOMY))
            started = time.monotonic()
            for _ in range(10):
                await worker.ladder.release(fresh(*ROOMY), Trail())
            took = time.monotonic() - started
        await until(lambda: place.server.ask("PING"))

    assert took < 0.05


async def test_our_own_lag_opens_nothing(place):
    """A loop that stood still says nothing about Redis: it is asked again."""
    async with gateway(place.url) as worker:
        with structlog.testing.capture_logs() as logs:
            async with stopped(place):
                for _ in range(12):
                    asked = worker.ask(RedisDown.DEGRADE, fresh(*ROOMY))
                    asking = asyncio.create_task(asked)
                    await asyncio.sleep(0)
                    time.sleep(0.1)  # noqa: ASYNC251 - that is the point
                    await asking
                await worker.ask(RedisDown.DEGRADE, fresh(*ROOMY))
        await until(lambda: place.server.ask("PING"))

    assert {Granted} == {type(it.verdict) for it in worker.answers}
    assert worker.answers[-1].took > BUDGET_SECONDS[RedisDown.DEGRADE] / 2
    assert [] == logs


async def test_what_is_granted_without_redis_is_noted_first(place):
    """Until Envoy's first line nobody else knows of it, and Envoy may die."""
    async with gateway(place.url) as worker:
        await worker.ask(RedisDown.DEGRADE, fresh(*ROOMY))
        with_redis = list(worker.notes)
        async with stopped(place):
            await worker.ask(RedisDown.DEGRADE, fresh(*ROOMY))
            await worker.ask(RedisDown.DENY, fresh(*ROOMY))
            first = worker.answers[1].reservation
            further = dataclasses.replace(first, ordinal=2, so_far=first.facts)
            await worker.ask(RedisDown.DEGRADE, further)

    _, local, denied, again = worker.answers
    (entry,) = [judge(parse(line)) for line in worker.notes]
    assert ([], None) == (with_redis, denied.verdict)
    assert isinstance(entry, Beat)
    assert isinstance(local.verdict, Granted)
    assert local.reservation.exchange_id == entry.exchange_id
    assert local.verdict.debits == entry.facts.debits
    # Of a further request of a stream there is nothing new to know.
    assert isinstance(again.verdict, Granted)
