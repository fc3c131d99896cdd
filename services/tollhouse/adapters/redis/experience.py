"""Experience in Redis: what the replicas learn together, and what each knows of it.

Keys: `{s17}:learned:<tenant>:<model>` and `{s17}:learned:<tenant>` in the tenant's
shard, `{m0}:learned:<model>` in the fleet's slot; hashes, see learn.lua. A cohort takes
up to 2 KB, and goes after 30 days in which nobody taught it anything.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.client import (
    Argument,
    Redis,
    RedisReplyError,
    Reply,
    Run,
    Script,
    run_all,
)
from tollhouse.core.experience import Cohort, Experience, Learned, Ratio, cohorts
from tollhouse.core.histogram import EDGES, Quantiles, bin_of
from tollhouse.core.lesson import Lesson
from tollhouse.core.problems import Unavailable

KEPT_MS = 30 * 24 * 3_600_000
LOOK_SECONDS = 0.05
"""How soon a cohort is read that was asked for and nobody knows, with others."""
REFRESH_SECONDS = 2.0
"""How old may be what is known of a cohort that is asked for."""
COHORTS_AT_ONCE = 256
"""Read in one go: 1 ms of a worker's event loop."""
# Nobody waits for it; a slow Redis must not get more to do.
_BUDGET_SECONDS = 1.0

_learn = Script.load("learn.lua")


class Lessons:
    """Teaches all replicas, through Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def teach(self, lessons: Iterable[Lesson]) -> None:
        """Add lessons to the three cohorts of each.

        Raises what `Redis.call` raises; then any part of them may have been added,
        and teaching them again does no harm.
        """
        batches: dict[Cohort, _Batch] = {}
        for lesson in lessons:
            for cohort in cohorts(lesson.tenant, lesson.model):
                batch = batches.get(cohort)
                if batch is None:
                    batch = batches[cohort] = _Batch()
                batch.add(lesson)
        runs = [batch.run(cohort) for cohort, batch in batches.items()]
        await run_all(self._redis, runs, budget_seconds=_BUDGET_SECONDS)


class _Batch:
    """What one cohort is taught, laid out for learn.lua."""

    def __init__(self) -> None:
        self._bins: dict[tuple[str, int, bool], int] = {}
        self._ratios: dict[str, list[int]] = {}

    def add(self, lesson: Lesson) -> None:
        bins = self._bins
        if lesson.output:
            place = ("output", bin_of(lesson.output), lesson.is_cut)
            bins[place] = bins.get(place, 0) + 1
        place = ("duration", bin_of(lesson.duration_ms), False)
        bins[place] = bins.get(place, 0) + 1
        for name, ratio in (("text", lesson.text), ("refund", lesson.refund)):
            if ratio is not None:
                sums = self._ratios.setdefault(name, [0, 0, 0])
                samples, part, whole = ratio
                sums[0] += samples
                sums[1] += part
                sums[2] += whole

    def run(self, cohort: Cohort) -> Run:
        arguments: list[Argument] = [KEPT_MS, len(self._ratios)]
        for name, sums in self._ratios.items():
            arguments += (name, *sums)
        for (name, bin_, is_cut), count in self._bins.items():
            arguments += (name, bin_, 0 if is_cut else count, count if is_cut else 0)
        return _learn, [shards.learned(*cohort)], arguments


class Refresher:
    """Keeps one process' experience as fresh as its requests need it."""

    def __init__(self, redis: Redis, experience: Experience) -> None:
        self._redis = redis
        self._experience = experience
        self._is_wished = asyncio.Event()
        experience.wished = self._is_wished.set

    async def run(self) -> None:
        """Refresh until cancelled; while Redis is away what is known stays."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._is_wished.wait()
            await asyncio.sleep(LOOK_SECONDS)
            self._is_wished.clear()
            wanted = self._experience.wishes
            if clock() >= due:
                wanted = self._experience.asked
                due = clock() + REFRESH_SECONDS
            try:
                await self.refresh(wanted)
            except Unavailable:
                # Whoever needs Redis for more says so, and who asks again wishes again.
                continue

    async def refresh(self, wanted: Sequence[Cohort]) -> None:
        """Read these cohorts. Raises Unavailable; what could be read counts."""
        for start in range(0, len(wanted), COHORTS_AT_ONCE):
            some = wanted[start : start + COHORTS_AT_ONCE]
            commands = [
                ("HMGET", shards.learned(*cohort), *Learned._fields) for cohort in some
            ]
            replies = await self._redis.call_many(
                commands, budget_seconds=_BUDGET_SECONDS
            )
            read: dict[Cohort, Learned] = {}
            failed: RedisReplyError | None = None
            for cohort, reply in zip(some, replies, strict=True):
                if isinstance(reply, RedisReplyError):
                    failed = reply
                else:
                    read[cohort] = _learned(reply)
            self._experience.learn(read)
            if failed is not None:
                raise Unavailable(f"Redis answered {failed.code}") from failed


def _learned(reply: Reply) -> Learned:
    """Read a cohort; what another release or hand wrote otherwise says nothing."""
    try:
        output, duration, text, refund = map(_numbers, reply)
        return Learned(
            output=_quantiles(*output),
            duration=_quantiles(*duration),
            text=Ratio(*text),
            refund=Ratio(*refund),
        )
    except (ValueError, TypeError, IndexError):
        return Learned()


def _numbers(summary: bytes | None) -> tuple[int, ...]:
    return tuple(map(int, summary.split())) if summary else ()


def _quantiles(samples: int = 0, median: int = 0, high: int = 0) -> Quantiles:
    return Quantiles(samples, EDGES[median], EDGES[high])
