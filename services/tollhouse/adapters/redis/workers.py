"""The workers that are alive: among whom the limits are divided while Redis is away.

`th:workers` is a sorted set: member = worker, score = its last sign of life in Redis'
time (ms). Each worker writes its own and reads the others' in one script a second.
"""

import asyncio
import contextlib
from collections import deque

import structlog

from tollhouse.adapters.redis.client import Redis, Script
from tollhouse.core.local import Share
from tollhouse.core.problems import Unavailable

_log = structlog.get_logger()

WORKERS = "th:workers"
BEAT_SECONDS = 1.0
ALIVE_MS = 5000
"""A worker that was silent for longer is counted no more."""
LOOKS = 5
"""A worker seen in one of the last looks is counted: after Redis was away the first of
them would else find itself alone, and take all."""


class Workers:
    """This worker's share; what was read last holds for as long as Redis is away.

    `name` is the worker's own, the same over its restarts. `minimum`: how many workers
    are counted at least, for those nobody has seen yet.
    """

    def __init__(self, redis: Redis, name: str, *, minimum: int = 1) -> None:
        self._redis = redis
        self._name = name
        self._minimum = minimum
        self._script = Script.load("clock.lua", "workers.lua")
        self._seen: deque[set[bytes]] = deque(maxlen=LOOKS)
        self.share = Share(0, minimum)

    async def beat(self) -> None:
        """Give signs of life for as long as the process lives, then say goodbye."""
        try:
            while True:
                await self._beat()
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            with contextlib.suppress(Unavailable):
                await self._redis.call("ZREM", WORKERS, self._name)

    async def _beat(self) -> None:
        try:
            alive = await self._script(self._redis, [WORKERS], [self._name, ALIVE_MS])
        except Unavailable:
            return  # whoever asks for room meets it and says so
        self._seen.append(set(alive))
        names = sorted(set().union(*self._seen))
        workers = max(self._minimum, len(names))
        if workers != self.share.workers:
            _log.info("workers.counted", workers=workers)
        self.share = Share(names.index(self._name.encode()), workers)
