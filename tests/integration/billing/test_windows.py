"""Windows in a real Redis against the sum that a person would write down."""

import asyncio
import time
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.billing.records import (
    HOUR_MS,
    TRACES,
    Record,
    books,
    windows,
)
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.windows import Windows
from tollhouse.adapters.usage_pb import from_pb_record


@st.composite
def counts(draw: st.DrawFn) -> dict[str, int]:
    """What a record may say: a part is no larger than its whole."""
    input_, output = draw(st.integers(0, 50)), draw(st.integers(0, 50))
    return {
        "input": input_,
        "output": output,
        "cached": draw(st.integers(0, input_)),
        "reasoning": draw(st.integers(0, output)),
    }


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Record], list[list[int]]]:
    """Records with some adjustments, and batches that deliver each at least once."""
    records = []
    for _ in range(draw(st.integers(1, 8))):
        record = Record.make(
            tenant=draw(st.sampled_from(["acme", "zeta"])),
            model=draw(st.sampled_from(["tiny-chat", "m/2"])),
            kind=draw(st.integers(1, 3)),
            trace=draw(st.sampled_from(TRACES)),
            **draw(counts()),
        )
        record = record.ending(record.ended_ms + draw(st.integers(0, 2)) * HOUR_MS)
        records.append(record)
        if draw(st.booleans()):
            change = draw(st.integers(-20, 20))
            records.append(record.adjusted(input=change, output=-change))
    order = draw(st.permutations(range(len(records))))
    again = draw(st.lists(st.sampled_from(range(len(records))), max_size=12))
    deliveries: list[int] = draw(st.permutations([*order, *again]))
    batches: list[list[int]] = [[]]
    for number in deliveries:
        ends = bool(batches[-1]) and draw(st.booleans())
        if ends:
            batches.append([])
        batches[-1].append(number)
    return records, batches


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all examples."""
    with asyncio.Runner() as runner:
        yield runner


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(histories())
def test_duplicates_and_order_change_nothing(
    runner: asyncio.Runner,
    redis_url: str,
    db: redis.Redis,
    history: tuple[list[Record], list[list[int]]],
):
    """Any deliveries of the same records make the same windows."""
    records, batches = history
    db.flushall()

    async def deliver() -> int:
        client = await Redis.connect(redis_url, budget_seconds=2.0)
        target = Windows(client, time.time)
        applied = 0
        for batch in batches:
            postings = [from_pb_record(records[it].to_pb()) for it in batch]
            applied += (await target.apply(postings)).applied
        await client.close()
        return applied

    applied = runner.run(deliver())

    assert applied == len(records)
    assert books(records) == windows(db)


async def test_a_tenants_keys_are_in_one_slot(redis_url: str, db: redis.Redis):
    """A Redis Cluster demands it of a script; the number must never change."""
    client = await Redis.connect(redis_url, budget_seconds=2.0)
    target = Windows(client, time.time)
    records = [Record.make(), Record.make(model="m/2", cached=1, reasoning=1)]

    await target.apply([from_pb_record(it.to_pb()) for it in records])
    await client.close()
    tags = {key.partition(b":")[0] for key in db.scan_iter()}

    assert {b"{b8}"} == tags
