"""The learner: hands what settled exchanges teach to Redis, behind everybody's back.

Settling never waits for it and never fails by it: lessons are collected in memory and
written now and then. What can't be kept or written is dropped and counted; the next
exchanges teach the same.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from itertools import islice

import structlog

from tollhouse.adapters.metrics import Metrics
from tollhouse.adapters.redis.client import RedisReplyError
from tollhouse.adapters.redis.experience import Lessons
from tollhouse.core.exchange import Settlement
from tollhouse.core.lesson import Lesson, lesson
from tollhouse.core.problems import Unavailable

WRITE_SECONDS = 2.0
"""How often lessons are taught: each cohort that has any costs Redis 0.1 ms."""
MOST_WAITING = 10_000
"""Lessons in memory at once, about 3 MB."""
LESSONS_AT_ONCE = 1000
"""Laid out in one go: 5 ms of the worker's event loop."""

_log = structlog.get_logger()


class Learner:
    """Collects lessons and teaches them."""

    def __init__(self, lessons: Lessons, metrics: Metrics) -> None:
        self._lessons = lessons
        self._metrics = metrics
        self._waiting: deque[Lesson] = deque()

    def learn(self, settlements: Iterable[Settlement]) -> None:
        """Take what these teach; returns soon and raises nothing."""
        now_ms = time.time_ns() // 1_000_000
        dropped = 0
        try:
            for settlement in settlements:
                learned = lesson(settlement, now_ms)
                if learned is None:
                    continue
                self._metrics.settled(settlement)
                if len(self._waiting) < MOST_WAITING:
                    self._waiting.append(learned)
                else:
                    dropped += 1
            self._drop(dropped)
        except Exception:  # noqa: BLE001 - the boundary: settling goes on without us
            _log.exception("learning.failed")

    async def run(self) -> None:
        """Teach until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.teach()

    async def teach(self) -> None:
        """Teach all that waits; while Redis is away it goes on waiting."""
        while self._waiting:
            lessons = list(islice(self._waiting, LESSONS_AT_ONCE))
            try:
                await self._lessons.teach(lessons)
            except Unavailable as error:
                _log.warning("learning.postponed", reason=str(error))
                return
            except RedisReplyError as error:
                # Not Redis' state but our lessons: they would fail again.
                _log.error("learning.failed", reason=error.code)
                self._drop(len(lessons))
            for _ in lessons:
                self._waiting.popleft()

    def _drop(self, lessons: int) -> None:
        if lessons:
            self._metrics.lessons_dropped(lessons)
            _log.warning("lessons.dropped", lessons=lessons)
