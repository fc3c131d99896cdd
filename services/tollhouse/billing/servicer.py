"""The two services of the aggregator: records in, rows out."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from typing import NoReturn

import grpc.aio
import structlog

from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.redis.dedupe import Dedupe
from tollhouse.adapters.redis.windows import Windows
from tollhouse.adapters.tracing import Tracing
from tollhouse.adapters.usage_pb import from_pb_record, to_pb_row
from tollhouse.billing.paging import read_token, write_token
from tollhouse.billing.spans import tell_batch
from tollhouse.core.problems import Unavailable
from tollhouse.core.windows import SECONDS_PER_HOUR, Posting
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2_grpc as usage_grpc

BATCHES_AT_ONCE = 8
"""Per stream: the next ones are written while Redis syncs the first to its disk."""
RECORDS_AT_ONCE = 500
"""Per script call, which holds up Redis for about 2 ms then; more are taken in turn."""
ROWS = 500
MOST_ROWS = 5000
"""Page sizes of ListUsage: when the client has no wish, and at most."""

# Hour behind all that row names sort rightly: the year 2996.
_LAST_HOUR = 9_000_000

_OUTBOX_ID = re.compile(r"[0-9a-f-]{36}")

_log = structlog.get_logger()

_Context = grpc.aio.ServicerContext[object, object]


class UsageIngest(usage_grpc.UsageIngestServiceServicer):
    """Takes usage records; what it acknowledges is in the windows for good.

    Unavailable (Redis) becomes UNAVAILABLE: the sender repeats what has no answer.
    """

    def __init__(
        self,
        windows: Windows,
        dedupe: Dedupe,
        metrics: BillingMetrics,
        stopping: asyncio.Event,
        tracing: Tracing,
    ) -> None:
        self._windows = windows
        self._dedupe = dedupe
        self._metrics = metrics
        self._stopping = stopping
        self._tracing = tracing

    async def StreamUsage(  # noqa: N802  # gRPC's name
        self,
        request_iterator: AsyncIterator[usage_pb.StreamUsageRequest],
        context: _Context,
    ) -> AsyncIterator[usage_pb.StreamUsageResponse]:
        """Acknowledge each batch, in the order they came in."""
        # Tells the relay at once that somebody is there.
        await context.send_initial_metadata(())
        acks: asyncio.Queue[asyncio.Task[usage_pb.BatchAck] | None] = asyncio.Queue()
        slots = asyncio.Semaphore(BATCHES_AT_ONCE)

        async def read() -> None:
            try:
                async for request in request_iterator:
                    if request.HasField("watermark"):
                        await self._note(request.watermark)
                    if not request.HasField("batch"):
                        continue
                    await slots.acquire()
                    acks.put_nowait(asyncio.create_task(self._take(request.batch)))
            finally:
                acks.put_nowait(None)

        reading = asyncio.create_task(read())
        # When we stop, what came in is finished and the sender goes elsewhere.
        stopping = asyncio.create_task(self._stopping.wait())
        stopping.add_done_callback(lambda _: reading.cancel())
        try:
            while (task := await acks.get()) is not None:
                yield usage_pb.StreamUsageResponse(ack=await task)
                slots.release()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        except Unavailable as error:
            await _abort(context, error)
        finally:
            stopping.cancel()
            reading.cancel()
            while not acks.empty():
                _abandon(acks.get_nowait())

    async def ReportUsage(  # noqa: N802
        self, request: usage_pb.ReportUsageRequest, context: _Context
    ) -> usage_pb.ReportUsageResponse:
        """Acknowledge one batch."""
        try:
            return usage_pb.ReportUsageResponse(ack=await self._take(request.batch))
        except Unavailable as error:
            await _abort(context, error)

    async def _note(self, watermark: usage_pb.Watermark) -> None:
        oldest_at = watermark.oldest_at.seconds
        if not _OUTBOX_ID.fullmatch(watermark.outbox_id) or oldest_at <= 0:
            _log.error("watermark.misread", outbox=watermark.outbox_id[:64])
            return
        try:
            await self._dedupe.note(watermark.outbox_id, oldest_at)
        except Unavailable as error:
            # The last one stays, which keeps more; the next comes in seconds.
            _log.warning("watermark.failed", reason=str(error))

    async def _take(self, batch: usage_pb.UsageBatch) -> usage_pb.BatchAck:
        started_ns = time.time_ns()
        ack = usage_pb.BatchAck(batch_id=batch.batch_id)
        postings: list[Posting] = []
        repeated = set[str]()
        for record in batch.records:
            try:
                postings.append(from_pb_record(record))
            except ValueError as error:
                ack.rejected.add(record_id=record.record_id, reason=str(error))
        for start in range(0, len(postings), RECORDS_AT_ONCE):
            receipt = await self._windows.apply(
                postings[start : start + RECORDS_AT_ONCE]
            )
            self._metrics.took(receipt)
            ack.applied += receipt.applied
            ack.duplicates += receipt.duplicates
            repeated.update(receipt.repeated)
            for rejected in receipt.rejected:
                ack.rejected.add(record_id=rejected.record_id, reason=rejected.reason)
        if ack.rejected:
            first = ack.rejected[0]
            _log.error(
                "records.rejected",
                count=len(ack.rejected),
                exchange_id=first.record_id,
                reason=first.reason,
            )
        tell_batch(self._tracing, batch, ack, repeated, started_ns)
        return ack


class UsageQuery(usage_grpc.UsageQueryServiceServicer):
    """Lists what was used."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    async def ListUsage(  # noqa: N802
        self, request: usage_pb.ListUsageRequest, context: _Context
    ) -> usage_pb.ListUsageResponse:
        """One page of rows, sorted by tenant, hour and model."""
        try:
            after = read_token(request.page_token)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        size = min(request.page_size, MOST_ROWS) if request.page_size > 0 else ROWS
        to_hour = _LAST_HOUR
        if request.HasField("end_time"):
            to_hour = -(-request.end_time.seconds // SECONDS_PER_HOUR)
        try:
            rows = await self._windows.rows(
                tenant=request.tenant,
                from_hour=max(0, request.start_time.seconds // SECONDS_PER_HOUR),
                to_hour=min(max(0, to_hour), _LAST_HOUR),
                after=after,
                limit=size + 1,
            )
        except Unavailable as error:
            await _abort(context, error)
        token = write_token(rows[size - 1]) if len(rows) > size else ""
        return usage_pb.ListUsageResponse(
            rows=map(to_pb_row, rows[:size]), next_page_token=token
        )


def _abandon(task: asyncio.Task[usage_pb.BatchAck] | None) -> None:
    """Drop work whose answer nobody can get any more; it may be applied or not."""
    if task is not None:
        task.cancel()
        task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _abort(context: _Context, error: Unavailable) -> NoReturn:
    _log.warning("windows.failed", reason=str(error))
    await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
