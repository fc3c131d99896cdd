"""Spans of usage records that come in, as a collector gets them."""

import asyncio
import time
from typing import Any, cast

import pytest

from tests.integration.billing.records import SAMPLED, TRACES, Record
from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.redis.dedupe import Dedupe
from tollhouse.adapters.redis.windows import Windows
from tollhouse.adapters.tracing import Tracing
from tollhouse.billing.servicer import UsageIngest
from tollhouse.billing.spans import MOST_LINKS
from tollhouse.core.trace_context import parse_traceparent
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb

OF_EXCHANGE = parse_traceparent(SAMPLED)
UNSAMPLED = TRACES[1]
NO_CALL = cast("Any", None)


class Ingest:
    """An aggregator's servicer that tells of what it takes."""

    def __init__(self, redis, traces):
        self._traces = traces
        self._tracing = Tracing.open("billing", "test")
        self._servicer = UsageIngest(
            Windows(redis, time.time),
            Dedupe(redis, hours=48),
            BillingMetrics(),
            NO_CALL,
            self._tracing,
        )

    async def take(self, *records):
        batch = usage_pb.UsageBatch(batch_id=1, records=records)
        request = usage_pb.ReportUsageRequest(batch=batch)
        return (await self._servicer.ReportUsage(request, NO_CALL)).ack

    async def told(self):
        """Spans of records, and of batches."""
        await asyncio.to_thread(self._tracing.close)
        return self._traces.named("usage.apply"), self._traces.named("usage.batch")


@pytest.fixture
def ingest(client, traces):
    return Ingest(client, traces)


async def test_a_record_is_in_the_trace_of_its_exchange(ingest):
    """And linked to its batch, which is of many and linked to those that are kept."""
    kept = Record.make(trace=SAMPLED)
    others = [Record.make(trace=it) for it in TRACES if it != SAMPLED]
    await ingest.take(*(it.to_pb() for it in (*others, kept)))
    (apply,), (batch,) = await ingest.told()

    assert OF_EXCHANGE is not None
    ids = OF_EXCHANGE.trace_id, OF_EXCHANGE.span_id
    assert ids == (apply.trace_id, apply.parent)
    assert [(batch.trace_id, batch.span_id)] == apply.links
    assert {
        "tollhouse.record": kept.record_id,
        "tollhouse.usage.kind": "final",
        "tollhouse.outcome": "applied",
    } == apply.attributes
    assert ("tollhouse-billing", "", [ids]) == (
        batch.service,
        batch.parent,
        batch.links,
    )
    assert apply.trace_id != batch.trace_id
    assert (4, 0, 0) == tuple(
        batch.attributes[f"tollhouse.records{it}"]
        for it in ("", ".duplicate", ".rejected")
    )


async def test_a_batch_of_others_is_not_told(ingest):
    await ingest.take(Record.make().to_pb(), Record.make(trace=UNSAMPLED).to_pb())

    assert ([], []) == await ingest.told()


async def test_a_repeated_record_says_so(ingest):
    record = Record.make(trace=SAMPLED).to_pb()
    await ingest.take(record)
    await ingest.take(record)
    applied, _ = await ingest.told()

    assert ["applied", "duplicate"] == [
        it.attributes["tollhouse.outcome"] for it in applied
    ]


async def test_a_rejected_record_stands_out(ingest):
    """Whoever chose: it is parked, and a person has to look at it."""
    record = Record.make(trace=UNSAMPLED).to_pb()
    record.served_model = ""
    nameless = usage_pb.UsageRecord(record_id="x" * 5000, kind=cast("Any", 77))
    ack = await ingest.take(record, nameless)
    applied, (batch,) = await ingest.told()

    assert 2 == len(ack.rejected) == batch.attributes["tollhouse.records.rejected"]
    assert all(it.has_failed for it in applied)
    assert {"rejected"} == {it.attributes["error.type"] for it in applied}
    assert OF_EXCHANGE is not None
    assert OF_EXCHANGE.trace_id == applied[0].trace_id
    assert (64, "") == (
        len(str(applied[1].attributes["tollhouse.record"])),
        applied[1].parent,
    )


async def test_links_have_an_end(ingest):
    """A batch may be of exchanges that are all kept."""
    records = [Record.make(trace=SAMPLED).to_pb() for _ in range(MOST_LINKS + 1)]
    await ingest.take(*records)
    applied, (batch,) = await ingest.told()

    assert MOST_LINKS == len(batch.links)
    assert MOST_LINKS + 1 == len(applied)
