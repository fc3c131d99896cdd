"""What was looked up lately, bounded in age, in number and in what it costs Redis.

Known and unknown keys are kept apart: whoever tries keys can push out only other
failed tries. One look-up per key is under way at a time, however many ask. While Redis
is away, known keys go on as they were for a while; about others nothing can be said.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from tollhouse.core.problems import ProtocolError, Unavailable

FRESH_SECONDS = 2.0
"""The longest a change (a new key, a revoked one) may stay unseen."""
AHEAD_SECONDS = 1.0
"""From this age a key in use is looked up again, before anybody has to wait for it."""
KEPT_SECONDS = 300.0
"""The longest a known key lives on without Redis."""
RETRY_SECONDS = 0.25
"""After a failed look-up known keys go without one for so long: a Redis that hangs
must not cost every request its time limit."""

_log = structlog.get_logger()

V = TypeVar("V")


@dataclass(slots=True)
class _Known(Generic[V]):
    value: V
    checked_at: float


class _Away(Exception):
    """The look-up had no answer."""


class Cache(Generic[V]):
    """Values by digest. `find` gets the digest and the value it had, if any."""

    def __init__(
        self,
        find: Callable[[str, V | None], Awaitable[V | None]],
        *,
        most_known: int = 20_000,
        most_unknown: int = 20_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._most_known = most_known
        self._most_unknown = most_unknown
        self._clock = clock
        self._known: OrderedDict[str, _Known[V]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[V | None]] = {}
        self._failed_at = float("-inf")
        self._is_away = False

    async def get(self, digest: str) -> V | None:
        """The value, None for an unknown digest.

        Raises Unavailable when neither Redis nor memory can tell; then nothing may be
        concluded about the key.
        """
        now = self._clock()
        known = self._known.get(digest)
        if known is None:
            checked_at = self._unknown.get(digest)
            if checked_at is not None and now - checked_at < FRESH_SECONDS:
                return None
        else:
            self._known.move_to_end(digest)
            age = now - known.checked_at
            rests = now - self._failed_at < RETRY_SECONDS
            if age < FRESH_SECONDS:
                if age >= AHEAD_SECONDS and not rests:
                    self._look_up(digest, known.value)
                return known.value
            if self._is_away and age < KEPT_SECONDS:
                # Nobody waits for a Redis that hangs; who comes next finds it back.
                if not rests:
                    self._look_up(digest, known.value)
                return known.value
        try:
            # Shielded: others wait for the same look-up when this client leaves.
            return await asyncio.shield(
                self._look_up(digest, None if known is None else known.value)
            )
        except _Away as error:
            if known is not None and now - known.checked_at < KEPT_SECONDS:
                return known.value
            raise Unavailable("the key can't be looked up") from error

    def _look_up(self, digest: str, value: V | None) -> "asyncio.Task[V | None]":
        """Start a look-up, or join the one under way."""
        task = self._under_way.get(digest)
        if task is None:
            task = asyncio.create_task(self._refresh(digest, value))
            self._under_way[digest] = task
            task.add_done_callback(lambda it: self._finish(digest, it))
        return task

    def _finish(self, digest: str, task: "asyncio.Task[V | None]") -> None:
        del self._under_way[digest]
        if not task.cancelled():
            task.exception()  # seen: whoever waits for it handles it, maybe nobody

    async def _refresh(self, digest: str, value: V | None) -> V | None:
        # The age counts from the question: the answer may be older than its arrival.
        asked_at = self._clock()
        try:
            found = await self._find(digest, value)
        except Unavailable as error:
            self._failed_at = self._clock()
            if not self._is_away:
                self._is_away = True
                _log.warning("redis.lost", reason=str(error))
            raise _Away from error
        except ProtocolError as error:
            _log.error("credential.misread", reason=str(error))
            raise _Away from error
        if self._is_away:
            self._is_away = False
            _log.info("redis.returned")
        self._keep(digest, found, asked_at)
        return found

    def _keep(self, digest: str, found: V | None, asked_at: float) -> None:
        if found is None:
            self._known.pop(digest, None)
            self._unknown[digest] = asked_at
            self._unknown.move_to_end(digest)
            if len(self._unknown) > self._most_unknown:
                self._unknown.popitem(last=False)
            return
        self._unknown.pop(digest, None)
        self._known[digest] = _Known(found, asked_at)
        self._known.move_to_end(digest)
        if len(self._known) > self._most_known:
            self._known.popitem(last=False)
