"""The shipper: brings open chunks to the provider, each once.

An attempt is noted before it is made. Whatever dies in between, the next one sends
the same bytes under the same identifier; core/chunk.py says when that is enough and
when the provider has to be asked first. What can't be sent stands in no other's way.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.redis.chunks import Chunks, Stored
from tollhouse.adapters.redis.leadership import Leadership
from tollhouse.adapters.tracing import Tracing
from tollhouse.billing.pace import Pace
from tollhouse.billing.spans import tell_attempt
from tollhouse.core.chunk import (
    Answer,
    Attempt,
    Progress,
    Provider,
    State,
    Step,
    UnanswerableError,
    Verdict,
    conclude,
    next_step,
    parked,
    pause_seconds,
    verified,
)
from tollhouse.core.problems import Unavailable

CALLS_AT_ONCE = 32
CHUNKS_AT_ONCE = 300
"""Read from each shard at a time; more are read when these are dealt with."""

_LOOK_SECONDS = 0.5
_LOOKUP_SECONDS = 60.0
"""Between two lookups of the same chunk, about."""
_STOP_SECONDS = 2.5
"""Less than what a process gives its tasks to end."""
_FAILED = (Verdict.REFUSED, Verdict.UNKNOWN)

_log = structlog.get_logger()

_Lane = tuple[str, str]
"""Customer and meter: Stripe takes one call at a time for each."""


class Shipper:
    """The loop over open chunks of the shards this process leads.

    `call_seconds`: how long a call to the provider may take. `longest_pause_seconds`:
    between two attempts at one chunk.
    """

    def __init__(
        self,
        chunks: Chunks,
        provider: Provider,
        leadership: Leadership,
        pace: Pace,
        clock: Callable[[], float],
        *,
        metrics: BillingMetrics,
        tracing: Tracing,
        call_seconds: float,
        longest_pause_seconds: float,
    ) -> None:
        self._chunks = chunks
        self._provider = provider
        self._leadership = leadership
        self._pace = pace
        self._clock = clock
        self._metrics = metrics
        self._tracing = tracing
        self._busy_seconds = call_seconds + 5
        self._longest_pause = longest_pause_seconds
        self._read: deque[Stored] = deque()
        self._lanes: set[_Lane] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Ship until cancelled; then calls under way may end."""
        try:
            while True:
                self._ended.clear()
                try:
                    await self.look()
                except Unavailable as error:
                    _log.warning("ship.failed", reason=str(error))
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._ended.wait()
                except TimeoutError:
                    pass
        finally:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
            for task in self._tasks:
                task.cancel()

    async def look(self) -> None:
        """Start calls for what is due and free. Raises Unavailable."""
        shards = self._leadership.shards
        if not shards:
            self._read.clear()
            return
        if not self._read and len(self._tasks) < CALLS_AT_ONCE:
            self._read.extend(
                await self._chunks.due(shards, self._clock(), CHUNKS_AT_ONCE)
            )
        while self._read and len(self._tasks) < CALLS_AT_ONCE:
            call = self._next_call()
            if call:
                lanes = {_lane(it) for it in call}
                self._lanes |= lanes
                task = asyncio.create_task(self._handle(call))
                self._tasks.add(task)
                task.add_done_callback(partial(self._end, lanes))

    async def rest(self) -> None:
        """Wait until no call is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)
            await asyncio.sleep(0)

    def _end(self, lanes: set[_Lane], task: asyncio.Task[None]) -> None:
        self._lanes -= lanes
        self._tasks.discard(task)
        self._ended.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Retried like any other; but what raised was not foreseen.
            _log.error("ship.broke", exc_info=error)

    def _next_call(self) -> list[Stored]:
        """Put together what may go in one call: one chunk of each free lane.

        What has no free lane is left out: it is read again when it is still due.
        """
        now, lanes = int(self._clock()), set(self._lanes)
        call: list[Stored] = []
        while self._read and len(call) < self._provider.most_at_once:
            stored = self._read[0]
            step = next_step(stored.chunk, stored.progress, now)
            is_alone = step is not Step.SEND or not self._is_ours(stored)
            if is_alone and call:
                break
            self._read.popleft()
            if _lane(stored) in lanes:
                continue
            lanes.add(_lane(stored))
            call.append(stored)
            if is_alone:
                break
        return call

    async def _handle(self, call: Sequence[Stored]) -> None:
        try:
            now = int(self._clock())
            first = call[0]
            if not self._is_ours(first):
                await self._conclude(first, partial(parked, reason="other_provider"))
                return
            match next_step(first.chunk, first.progress, now):
                case Step.PARK:
                    await self._conclude(first, partial(parked, reason="too_old"))
                case Step.VERIFY:
                    await self._verify(first)
                case Step.SEND:
                    await self._send(call)
        except Unavailable as error:
            # Redis or the provider is away: what is noted is enough to go on later.
            _log.warning("ship.failed", reason=str(error))

    def _is_ours(self, stored: Stored) -> bool:
        return stored.chunk.account.provider == self._provider.name

    async def _verify(self, stored: Stored) -> None:
        chunk = stored.chunk
        await self._pace.wait()
        try:
            total = await self._provider.total(
                chunk.account.customer,
                chunk.event_name,
                chunk.timestamp,
                chunk.timestamp + 60,
            )
        except UnanswerableError:
            self._pace.succeeded()
            await self._conclude(stored, partial(parked, reason="cannot_be_looked_up"))
            return
        except Unavailable as error:
            self._pace.failed()
            if not error.transient:
                _log.error("provider.unusable", reason=str(error))
            await self._conclude(stored, _unchanged)
            return
        self._pace.succeeded()
        others = await self._chunks.others(chunk)
        now = int(self._clock())

        def decide(progress: Progress) -> Progress:
            return verified(chunk, progress, others=others, total=total, now=now)

        await self._conclude(stored, decide)

    async def _send(self, call: Sequence[Stored]) -> None:
        await self._pace.wait()
        now = self._clock()
        begun = []
        for stored in call:
            # Decided before the wait, which may have been long.
            if next_step(stored.chunk, stored.progress, int(now)) is not Step.SEND:
                continue
            until = now + self._busy_seconds
            noted = await self._chunks.begin(stored, now=int(now), until=until)
            if noted is not None:
                begun.append(noted)
        if not begun:
            return
        attempts = [Attempt(it.chunk, it.progress.attempts) for it in begun]
        started_ns = time.time_ns()
        try:
            answers = await self._provider.ship(attempts)
        except Unavailable as error:
            _log.error("provider.unusable", reason=str(error))
            answers = [Answer(Verdict.REFUSED, "unusable")] * len(begun)
        if all(it.verdict in _FAILED for it in answers):
            self._pace.failed()
        else:
            self._pace.succeeded()
        for attempt, answer in zip(attempts, answers, strict=True):
            self._metrics.answered(answer.verdict)
            tell_attempt(
                self._tracing, self._provider.name, attempt, answer, started_ns
            )
        for stored, answer in zip(begun, answers, strict=True):
            number, at = stored.progress.attempts, int(self._clock())
            decide = partial(conclude, number=number, answer=answer, now=at)
            await self._conclude(stored, decide)

    async def _conclude(
        self, stored: Stored, decide: Callable[[Progress], Progress]
    ) -> None:
        now = self._clock()
        chance = random.random()  # noqa: S311 - jitter
        pause = pause_seconds(
            stored.progress.attempts, chance, longest=self._longest_pause
        )
        if next_step(stored.chunk, stored.progress, int(now)) is Step.VERIFY:
            # What it counts changes within minutes, and others want to ask too.
            pause = _LOOKUP_SECONDS * (0.5 + chance)
        after = await self._chunks.conclude(
            stored, decide, now=int(now), look_at=now + pause
        )
        facts = {
            "chunk": stored.chunk.id,
            "identifier": stored.chunk.identifier,
            "attempts": after.attempts,
        }
        if after.state is State.SENT:
            _log.info("chunk.sent", value=stored.chunk.value, **facts)
        elif after.state is State.PARKED:
            _log.error("chunk.parked", reason=after.reason, **facts)
        else:
            _log.debug("chunk.kept", **facts)


def _unchanged(progress: Progress) -> Progress:
    return progress


def _lane(stored: Stored) -> _Lane:
    return stored.chunk.account.customer, stored.chunk.event_name
