"""The aggregator from outside: a real process, gRPC, a real Redis."""

import asyncio
import re
import signal
from typing import TYPE_CHECKING

import grpc.aio
import pytest
import redis

from tests.integration.billing.conftest import Aggregator
from tests.integration.billing.records import (
    HOUR_MS,
    Record,
    books,
    mixed,
    wait_until,
    windows,
)
from tests.redis_process import running_redis
from tollhouse.adapters.redis import billing_keys
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2_grpc as usage_grpc

OUTBOX = "0b6f3e2a-5d0c-4c56-9f6e-0d1f6b1a2c3d"

if TYPE_CHECKING:  # the stubs' async forms exist for type checkers only
    Ingest = usage_grpc.UsageIngestServiceAsyncStub
    Query = usage_grpc.UsageQueryServiceAsyncStub


async def report(ingest: "Ingest", records: list[Record]) -> usage_pb.BatchAck:
    batch = usage_pb.UsageBatch(
        batch_id=7, records=[record.to_pb() for record in records]
    )
    response = await ingest.ReportUsage(usage_pb.ReportUsageRequest(batch=batch))
    return response.ack


async def report_when_it_can(
    ingest: "Ingest", records: list[Record]
) -> usage_pb.BatchAck:
    """Report until the aggregator has its Redis again."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await report(ingest, records)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)


async def listed(query: "Query", **request: object) -> list[usage_pb.UsageRow]:
    answer = await query.ListUsage(usage_pb.ListUsageRequest(**request))  # type: ignore[arg-type]
    return list(answer.rows)


async def test_a_batch_is_added_up_once(ingest: "Ingest", db: redis.Redis):
    """Applied, then recognised: batch ids play no part in it."""
    records = mixed(200)

    first = await report(ingest, records)
    again = await report(ingest, records[50:] + records[:50])

    assert (7, 200, 0) == (first.batch_id, first.applied, first.duplicates)
    assert (0, 200) == (again.applied, again.duplicates)
    assert books(records) == windows(db)


async def test_one_record_twice_in_a_batch_counts_once(
    ingest: "Ingest", db: redis.Redis
):
    record = Record.make()

    ack = await report(ingest, [record, record])

    assert (1, 1) == (ack.applied, ack.duplicates)
    assert books([record]) == windows(db)


async def test_a_record_counts_in_the_hour_it_ended_in(
    ingest: "Ingest", query: "Query", db: redis.Redis
):
    """The last millisecond of an hour and the first of the next are two rows."""
    seconds, _ = db.time()
    border_ms = seconds // 3600 * HOUR_MS
    made = {"made_ms": border_ms - 60_000}
    before = Record.make(**made, ended_ms=border_ms - 1, input=1)
    after = Record.make(**made, ended_ms=border_ms, input=2)

    await report(ingest, [after, before])
    rows = await listed(query)

    expected = [(border_ms // 1000 - 3600, 1), (border_ms // 1000, 2)]
    assert expected == [(row.start_time.seconds, row.input_tokens) for row in rows]


async def test_an_adjustment_changes_the_sums_and_is_no_exchange(
    ingest: "Ingest", query: "Query"
):
    """It lands in the hour of the record it corrects, whatever came first."""
    abandoned = Record.make(kind=3, input=100, output=0)
    adjustment = abandoned.adjusted(input=-20, output=33, cached=7)

    for _ in range(2):
        await report(ingest, [adjustment])
        await report(ingest, [abandoned])
    (row,) = await listed(query, tenant="acme")

    counts = (row.input_tokens, row.output_tokens, row.cached_input_tokens)
    exchanges = (row.final_exchanges, row.partial_exchanges, row.abandoned_exchanges)
    assert (80, 33, 7) == counts
    assert (0, 0, 1) == exchanges


async def test_an_exchange_without_tokens_is_a_row(ingest: "Ingest", query: "Query"):
    """Zero is a value."""
    await report(ingest, [Record.make(input=0, output=0)])
    (row,) = await listed(query)

    assert (0, 0, 1) == (row.input_tokens, row.output_tokens, row.final_exchanges)


async def test_a_rejected_record_does_not_block_the_others(
    ingest: "Ingest", db: redis.Redis
):
    good = mixed(5)
    bad = Record.make(kind=9)

    ack = await report(ingest, [good[0], bad, *good[1:]])

    rejected = [(it.record_id, it.reason) for it in ack.rejected]
    assert [(bad.record_id, "kind 9 is not known")] == rejected
    assert 5 == ack.applied
    assert books(good) == windows(db)


async def test_a_record_of_a_closed_hour_is_refused(ingest: "Ingest", db: redis.Redis):
    """Whether it was counted can't be known any more, so it is never added."""
    now_ms = db.time()[0] * 1000
    fresh = Record.make(made_ms=now_ms)
    old = Record.make(made_ms=now_ms - HOUR_MS)
    shard = billing_keys.shard("acme")
    db.set(billing_keys.of_shard(shard, "closed"), old.ended_ms // HOUR_MS)

    ack = await report(ingest, [old, fresh])

    assert [old.record_id] == [it.record_id for it in ack.rejected]
    assert books([fresh]) == windows(db)


async def test_a_stream_tells_how_far_its_outbox_is_read(
    ingest: "Ingest", db: redis.Redis
):
    """The aggregator keeps it, and answers batches only."""
    watermark = usage_pb.Watermark(outbox_id=OUTBOX)
    watermark.oldest_at.seconds = 1_790_000_000
    stream = ingest.StreamUsage()

    await stream.write(usage_pb.StreamUsageRequest(watermark=watermark))
    batch = usage_pb.UsageBatch(batch_id=3, records=[Record.make().to_pb()])
    await stream.write(usage_pb.StreamUsageRequest(batch=batch))
    response = await stream.read()
    stream.cancel()

    assert isinstance(response, usage_pb.StreamUsageResponse)
    assert 3 == response.ack.batch_id
    assert {OUTBOX.encode(): b"1790000000"} == db.hgetall(billing_keys.WATERMARKS)


async def test_pages_follow_each_other_without_gap_or_overlap(
    ingest: "Ingest", query: "Query"
):
    """Sorted by tenant, hour and model; rows that appear meanwhile shift nothing."""
    records = mixed(120, tenants=4)
    await report(ingest, records)
    whole = await listed(query)
    request = usage_pb.ListUsageRequest(page_size=5)
    pages = []
    while True:
        answer = await query.ListUsage(request)
        pages.append(list(answer.rows))
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
        # Sorts before every page to come.
        await report(ingest, [Record.make(tenant="aaa")])

    keys = [(row.tenant, row.start_time.seconds, row.model) for row in whole]
    assert sorted(keys) == keys
    assert {5} == {len(page) for page in pages[:-1]}
    assert whole == [row for page in pages for row in page]


async def test_rows_of_a_tenant_and_a_time(
    ingest: "Ingest", query: "Query", db: redis.Redis
):
    records = mixed(60)
    hour = records[0].ended_ms // HOUR_MS - 1
    await report(ingest, records)

    request = usage_pb.ListUsageRequest(tenant="tenant-1")
    request.start_time.FromMilliseconds(hour * HOUR_MS + 1)
    request.end_time.FromMilliseconds((hour + 1) * HOUR_MS)
    answer = await query.ListUsage(request)

    mine = [it for it in records if it.tenant == "tenant-1"]
    expected = sum(it.input for it in mine if it.ended_ms // HOUR_MS == hour)
    assert {("tenant-1", hour * 3600)} == {
        (row.tenant, row.start_time.seconds) for row in answer.rows
    }
    assert expected == sum(row.input_tokens for row in answer.rows)


async def test_a_foreign_page_token_is_refused(query: "Query"):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await query.ListUsage(usage_pb.ListUsageRequest(page_token="xyz"))

    assert grpc.StatusCode.INVALID_ARGUMENT == caught.value.code()


async def test_batches_overlap_on_a_stream(ingest: "Ingest", db: redis.Redis):
    """Several are on the way; each gets its own answer."""
    records = mixed(300)
    stream = ingest.StreamUsage()
    for number in range(30):
        batch = usage_pb.UsageBatch(batch_id=number + 1)
        batch.records.extend(it.to_pb() for it in records[number * 10 :][:10])
        await stream.write(usage_pb.StreamUsageRequest(batch=batch))
    await stream.done_writing()
    acks = [response.ack async for response in stream]

    assert list(range(1, 31)) == [ack.batch_id for ack in acks]
    assert 300 == sum(ack.applied for ack in acks)
    assert books(records) == windows(db)


@pytest.mark.timed
async def test_killed_between_apply_and_ack_nothing_is_counted_twice(
    aggregator: Aggregator, db: redis.Redis
):
    """The answer of a batch that was applied is lost with the process."""
    records = mixed(100)
    batch = usage_pb.UsageBatch(batch_id=1, records=[it.to_pb() for it in records])
    request = usage_pb.ReportUsageRequest(batch=batch)
    assert aggregator.process is not None
    async with grpc.aio.insecure_channel(aggregator.target) as channel:
        call = usage_grpc.UsageIngestServiceStub(channel).ReportUsage(request)
        # Redis works, its answer stays in the socket of a process that then dies.
        db.execute_command("CLIENT", "PAUSE", 500)
        await asyncio.sleep(0.2)
        aggregator.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(
            wait_until, lambda: books(records) == windows(db), "applied"
        )
        aggregator.kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    aggregator.start()

    async with grpc.aio.insecure_channel(aggregator.target) as channel:
        stub = usage_grpc.UsageIngestServiceStub(channel)
        response = await stub.ReportUsage(request)

    assert (0, 100) == (response.ack.applied, response.ack.duplicates)
    assert books(records) == windows(db)


async def test_without_redis_it_says_unavailable_and_comes_back(
    tmp_path, part_processes
):
    """What had been acknowledged is there after a kill of Redis (AOF)."""
    first, second = mixed(40), mixed(40)
    aggregator = Aggregator(tmp_path, f"unix://{tmp_path}/redis.sock")
    part_processes.append(aggregator)
    async with grpc.aio.insecure_channel(aggregator.target) as channel:
        ingest = usage_grpc.UsageIngestServiceStub(channel)
        with running_redis(tmp_path, appendonly="yes"):
            aggregator.start()
            await report(ingest, first)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await report(ingest, second)
        with running_redis(tmp_path, appendonly="yes") as server:
            ack = await report_when_it_can(ingest, first + second)
            with redis.Redis.from_url(server.url) as db:
                found = windows(db)

    assert grpc.StatusCode.UNAVAILABLE == caught.value.code()
    assert (40, 40) == (ack.applied, ack.duplicates)
    assert books(first + second) == found


async def test_it_drains_at_once_although_a_stream_is_open(aggregator: Aggregator):
    """A relay's stream lives for days; it must not hold up a restart."""
    async with grpc.aio.insecure_channel(aggregator.target) as channel:
        stream = usage_grpc.UsageIngestServiceStub(channel).StreamUsage()
        await stream.initial_metadata()
        status = await asyncio.wait_for(
            asyncio.to_thread(aggregator.kill, signal.SIGTERM), 30
        )
        end = await stream.read()

    assert 0 == status
    assert grpc.aio.EOF is end


def test_settings_that_do_not_do_are_named(tmp_path, part_processes):
    part = Aggregator(tmp_path, "http://nowhere")
    part_processes.append(part)
    part.start(wait=False)
    assert part.process is not None

    assert 2 == part.process.wait(60)
    assert re.search(r"TOLLHOUSE_BILLING_REDIS_URL: .*unix://", part.log)
