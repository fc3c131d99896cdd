"""Windows and chunks in a real Redis: what was counted is sealed once, to the token."""

import asyncio
import time
import uuid
from collections import Counter

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.integration.billing.records import HOUR_MS, TRACES, Record
from tests.integration.shipping.conftest import (
    HOUR,
    SEALED_AT,
    Aggregator,
    Clock,
    usage,
)
from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.dedupe import MOST_HOURS, Dedupe
from tollhouse.core.chunk import Answer, State, Verdict
from tollhouse.core.windows import AS_PROMISED, BILLED, Cadence, TokenType

OUTBOX = str(uuid.UUID(int=1))
OTHER = str(uuid.UUID(int=2))


class Scripted:
    """A provider whose next verdicts a test writes down; then it accepts."""

    name = "scripted"
    most_at_once = 3

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.taken: dict[str, tuple[str, int]] = {}
        self.largest_call = 0

    async def ship(self, attempts):
        self.largest_call = max(self.largest_call, len(attempts))
        answers = []
        for attempt in attempts:
            it = attempt.chunk
            verdict = self.verdicts.pop(0) if self.verdicts else Verdict.ACCEPTED
            if verdict is not Verdict.REFUSED:
                if it.identifier in self.taken:
                    verdict = Verdict.DUPLICATE
                self.taken[it.identifier] = (it.window.name, it.value)
            answers.append(Answer(verdict))
        return answers

    async def total(self, customer, event_name, start, end):
        raise AssertionError(customer, event_name, start, end)

    def totals(self) -> Counter[str]:
        """Tokens by window."""
        found: Counter[str] = Counter()
        for name, value in self.taken.values():
            found[name] += value
        return found


TENANTS = ("acme", "zeta", "t-3")
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("record"),
            st.sampled_from(TENANTS),
            st.integers(0, 2),
            st.integers(0, 9),
            st.integers(0, 9),
        ),
        st.tuples(st.just("adjust"), st.integers(-9, 9)),
        st.tuples(st.just("seal")),
        st.tuples(st.just("hour")),
        st.tuples(
            st.just("ship"),
            st.lists(st.sampled_from([Verdict.UNKNOWN, Verdict.REFUSED]), max_size=4),
        ),
    ),
    max_size=25,
)


@pytest.fixture
def runner():
    """One event loop for all examples."""
    with asyncio.Runner() as runner:
        yield runner


async def take(
    aggregator: Aggregator, made: list[Record], step: tuple
) -> Record | None:
    """Do one step; the record it made."""
    match step:
        case ["record", tenant, hours, input_, output]:
            made.append(
                usage(
                    tenant,
                    hour=HOUR - hours,
                    trace=TRACES[input_ % len(TRACES)],
                    input=input_,
                    output=output,
                )
            )
        case ["adjust", change] if made and made[-1].kind != 4:
            made.append(made[-1].adjusted(output=change))
        case ["seal"]:
            await aggregator.seal()
            return None
        case ["hour"]:
            aggregator.clock.now += 3600
            return None
        case ["ship", verdicts]:
            aggregator.provider.verdicts = list(verdicts)  # type: ignore[attr-defined]
            await aggregator.ship()
            return None
        case _:
            return None
    await aggregator.record(made[-1])
    return made[-1]


def count(expected: Counter[str], it: Record | None) -> None:
    """Write down what a record is to be billed."""
    if it is not None:
        hour = it.ended_ms // HOUR_MS
        expected[f"{it.tenant}|{it.model}|uncached_input|{hour}"] += it.input
        expected[f"{it.tenant}|{it.model}|output|{hour}"] += it.output


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(STEPS)
@example([("record", "acme", 0, 2, 1), ("adjust", -1)])
def test_any_history_is_shipped_to_the_token(runner, redis_url, db, steps):
    """Records, adjustments, seals and failures in any order."""
    db.flushall()
    provider = Scripted()
    expected: Counter[str] = Counter()

    async def play():
        client = await Redis.connect(redis_url, budget_seconds=2.0)
        accounts = {it: it for it in TENANTS}
        aggregator = Aggregator(client, Clock(), provider, "one", accounts)
        made: list[Record] = []
        for step in steps:
            count(expected, await take(aggregator, made, step))
        provider.verdicts = []
        for _ in range(3):
            aggregator.clock.now += 3600
            await aggregator.seal()
            await aggregator.drain(step_seconds=120)
        await client.close()

    runner.run(play())

    assert {k: v for k, v in expected.items() if v} == {
        k: v for k, v in provider.totals().items() if v
    }
    assert provider.largest_call <= 3
    for key in db.scan_iter("{b*}:window:*"):
        # Where nothing is left to seal the trace waits for the next chunk.
        window = {k: int(v) for k, v in db.hgetall(key).items() if k != b"trace"}
        total, sealed, accepted = (
            window.get(it, 0) for it in (b"total", b"sealed", b"accepted")
        )
        assert total == sealed == accepted
    assert not list(db.scan_iter("{b*}:unsealed"))


async def test_a_seal_that_came_too_late_seals_nothing(client, clock, db):
    """Two sealers that read the same state: one chunk."""
    one = Aggregator(client, clock, Scripted(), "one", {"acme": "acme"})
    await one.record(usage(output=9))
    clock.now = SEALED_AT
    row = (await one.chunks.due_rows(range(16), SEALED_AT, 10))[0]
    account = (await one._accounts(["acme"]))["acme"]
    told = await asyncio.gather(
        *(
            one.chunks.seal(row, account, now=SEALED_AT, next_due=SEALED_AT + 3600)
            for _ in range(4)
        )
    )

    assert ["NNN", "NNN", "NNN", "SNS"] == sorted(told)
    assert 1 == db.zcard("{b8}:open") - 1


async def test_a_sent_chunk_goes_and_an_open_one_stays(client, clock, db):
    """After 40 days: nobody asks for it, and Redis' memory is not for ever."""
    aggregator = Aggregator(client, clock, Scripted(), "one", {"acme": "acme"})
    await aggregator.record(usage(output=9))
    await aggregator.seal()
    keys = list(db.scan_iter("{b8}:chunk:*"))
    while_open = {db.ttl(key) for key in keys}

    await aggregator.drain()

    assert {-1} == while_open
    assert all(39 * 86_400 < db.ttl(key) <= 40 * 86_400 for key in keys)
    assert State.SENT is await aggregator.state(f"acme|tiny-chat|output|{HOUR}|1")


async def test_100_tenants_share_calls_where_the_provider_takes_many(client, clock):
    provider = Scripted()
    names = [f"t-{number}" for number in range(20)]
    aggregator = Aggregator(client, clock, provider, "one", {it: it for it in names})
    await aggregator.record(*(usage(it) for it in names))
    await aggregator.seal()

    await aggregator.drain()

    assert 3 == provider.largest_call
    assert 40 == len(provider.taken)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (HOUR * 3600, SEALED_AT),
        (SEALED_AT - 1, SEALED_AT),
        (SEALED_AT, SEALED_AT + 3600),
        (SEALED_AT + 3599, SEALED_AT + 3600),
        (SEALED_AT + 3600, SEALED_AT + 7200),
    ],
)
def test_when_a_window_is_sealed(now, due):
    """At hour + 5 minutes; what is late, at the next full hour + 5 minutes."""
    assert due == AS_PROMISED.due(HOUR, now)


@given(
    st.integers(0, 3000), st.integers(60, 86_400), st.integers(0, 10), st.integers(0)
)
def test_a_window_is_due_behind_now_and_within_the_interval(delay, every, hour, now):
    cadence = Cadence(delay, every)
    first = (hour + 1) * 3600 + delay

    due = cadence.due(hour, now)

    assert due >= first
    assert now < due <= max(first, now + every)


async def test_ids_are_kept_behind_the_oldest_outbox(client, db):
    """An outage of any length: what waited is recognised, or taken, as ever."""
    aggregator = Aggregator(client, Clock(), Scripted(), "one")
    dedupe = Dedupe(client, hours=48)
    now = HOUR * 3600
    ages = (0, 47, 48, 49, 100, 147, 148, 149)
    records = [usage(hour=HOUR - age) for age in ages]
    await aggregator.record(*records)
    await dedupe.note(OUTBOX, now - 100 * 3600)
    await dedupe.note(OTHER, now)

    closed = await dedupe.forget(now)
    again = await aggregator.record(*records)

    assert HOUR - 149 == closed
    assert (len(ages) - 1, [records[-1].record_id]) == (
        again.duplicates,
        [it.record_id for it in again.rejected],
    )
    sets = {int(key.rpartition(b":")[2]) for key in db.scan_iter("{b8}:seen:*")}
    assert {HOUR - age for age in ages[:-1]} == sets


async def test_an_outbox_that_is_gone_does_not_keep_ids_for_ever(client, db):
    aggregator = Aggregator(client, Clock(), Scripted(), "one")
    dedupe = Dedupe(client, hours=48)
    await aggregator.record(usage(hour=HOUR - MOST_HOURS - 1), usage())
    await dedupe.note(OUTBOX, 1)

    await dedupe.forget(HOUR * 3600)

    assert [b"{b8}:seen:%d" % HOUR] == list(db.scan_iter("{b8}:seen:*"))


async def test_a_clock_that_is_ahead_closes_nothing(client, db):
    """What is closed stays so: Redis' clock has to agree."""
    ahead = int(time.time()) + 400 * 86_400

    closed = await Dedupe(client, hours=48).forget(ahead)

    assert abs(closed - (db.time()[0] // 3600 - 49)) <= 1


async def test_a_closed_hour_stays_closed(client, db):
    """An older watermark that comes late opens nothing again."""
    dedupe = Dedupe(client, hours=48)
    await dedupe.forget(HOUR * 3600)
    await dedupe.note(OUTBOX, (HOUR - 200) * 3600)

    await dedupe.forget(HOUR * 3600)

    for shard in range(billing_keys.BILLING_SHARDS):
        assert HOUR - 49 == int(db.get(billing_keys.of_shard(shard, "closed")))


def test_what_is_billed_is_every_token_once():
    assert set(TokenType) - set(BILLED) == {TokenType.REASONING}
