"""The courier: carries usage records to the aggregator and brings its answers back.

One bidi stream with several batches on the way. What waits is cut into batches only
when one may leave, so a slow aggregator gets fewer, fuller ones. While it is away the
courier keeps what it was given and tries again; records it has no answer for are sent
once more, which the aggregator recognises.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import grpc.aio
import structlog

from tollhouse.adapters.redis.outbox import Entry
from tollhouse.adapters.remote import Remote
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2_grpc as usage_grpc

BATCH_RECORDS = 200
"""A batch stays under 100 KB, and the aggregator's script call under 1 ms."""
BATCHES_ON_THE_WAY = 8
"""Enough to hide the aggregator's fsync behind the next batches."""

_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 3.0

_OPTIONS = (
    # gRPC's own reconnect pauses grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # An aggregator that hangs or whose host is gone is noticed within 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)

_log = structlog.get_logger()

_Stream = grpc.aio.StreamStreamCall[
    usage_pb.StreamUsageRequest, usage_pb.StreamUsageResponse
]


@dataclass(frozen=True, slots=True)
class Parcel:
    """One record on its way, and the outbox entry it came from."""

    entry: Entry
    record: usage_pb.UsageRecord


Answered = Callable[[Sequence[Parcel], Mapping[str, str]], None]
"""Told which parcels the aggregator has; of these it refused record id → reason."""


class Courier:
    """The one connection of this process to the aggregator."""

    def __init__(self, aggregator: Remote, answered: Answered) -> None:
        self._aggregator = aggregator
        self._answered = answered
        self._waiting: deque[Parcel] = deque()
        self._on_the_way: dict[int, list[Parcel]] = {}
        self._numbers = count(1)
        self._may_write = asyncio.Event()
        self._watermark: usage_pb.Watermark | None = None
        self._has_progress = False
        self._told = set[str]()
        self.is_connected = False
        """Whether the aggregator has answered the current stream's start."""

    def send(self, parcels: Iterable[Parcel]) -> None:
        """Take parcels over; each is answered once, however long that takes."""
        self._waiting.extend(parcels)
        self._may_write.set()

    def tell(self, watermark: usage_pb.Watermark) -> None:
        """Let the aggregator know the outbox; a later one replaces an untold one."""
        self._watermark = watermark
        self._may_write.set()

    async def run(self) -> None:
        """Carry until cancelled; never returns."""
        delay = 0.0
        while True:
            # Until there are new certificates, which a channel never looks at.
            async with self._aggregator.channel(_OPTIONS) as channel:
                stub = usage_grpc.UsageIngestServiceStub(channel)
                while not self._aggregator.has_changed():
                    reason = await self._carry(stub.StreamUsage())
                    delay = await self._rest(delay, reason)

    async def _rest(self, delay: float, reason: str) -> float:
        """Wait before the next stream; return the delay it had."""
        # Once per outage and kind: grpc.aio's first reason is at times no more than
        # INTERNAL, and the next attempt brings the aggregator's own.
        if self.is_connected:
            self._told.clear()
        kind = reason.partition(":")[0]
        if kind not in self._told:
            self._told.add(kind)
            target = self._aggregator.target
            _log.warning("aggregator.lost", target=target, reason=reason)
        if self._has_progress:
            delay = 0.0
        self.is_connected = self._has_progress = False
        self._take_back()
        delay = min(max(delay * 2, _FIRST_DELAY_SECONDS), _LONGEST_DELAY_SECONDS)
        # Jitter: relays that lost it together must not come back in step.
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
        return delay

    async def _carry(self, stream: _Stream) -> str:
        """Use one stream to its end; return why it ended."""
        writing = asyncio.create_task(self._write(stream))
        # Without a writer nothing would ever be answered: end the reading too.
        writing.add_done_callback(lambda _: stream.cancel())
        try:
            await self._read(stream)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except asyncio.CancelledError:
            # grpc.aio raises it too when it was the stream that was cancelled.
            if _is_asked_to_stop():
                raise
            return "the stream was cancelled"
        finally:
            writing.cancel()
            await asyncio.wait([writing])
            if not writing.cancelled():
                _raise_bug(writing.exception())
        return "the aggregator drains"

    async def _read(self, stream: _Stream) -> None:
        await stream.initial_metadata()
        if not stream.done():
            self.is_connected = True
            _log.info("aggregator.connected", target=self._aggregator.target)
        # grpc.aio.EOF has no type of its own.
        while isinstance(response := await stream.read(), usage_pb.StreamUsageResponse):
            self._has_progress = True
            ack = response.ack
            # An answer to nothing is the aggregator's bug, and no reason to die here.
            parcels = self._on_the_way.pop(ack.batch_id, [])
            self._may_write.set()
            refused = {it.record_id: it.reason for it in ack.rejected}
            self._answered(parcels, refused)

    async def _write(self, stream: _Stream) -> None:
        while True:
            while self._waiting and len(self._on_the_way) < BATCHES_ON_THE_WAY:
                size = min(len(self._waiting), BATCH_RECORDS)
                parcels = [self._waiting.popleft() for _ in range(size)]
                number = next(self._numbers)
                self._on_the_way[number] = parcels
                records = [parcel.record for parcel in parcels]
                batch = usage_pb.UsageBatch(batch_id=number, records=records)
                await stream.write(usage_pb.StreamUsageRequest(batch=batch))
            self._may_write.clear()
            if self._watermark is not None:
                watermark, self._watermark = self._watermark, None
                await stream.write(usage_pb.StreamUsageRequest(watermark=watermark))
                continue
            await self._may_write.wait()

    def _take_back(self) -> None:
        """Put what has no answer in front again, in its old order."""
        for parcels in reversed(self._on_the_way.values()):
            self._waiting.extendleft(reversed(parcels))
        self._on_the_way.clear()


def _is_asked_to_stop() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _raise_bug(error: BaseException | None) -> None:
    # These two are how grpc.aio says that the stream ended under a write.
    if error and not isinstance(
        error, grpc.aio.AioRpcError | asyncio.InvalidStateError
    ):
        raise error
