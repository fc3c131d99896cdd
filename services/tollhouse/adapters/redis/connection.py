"""One connection to Redis: bytes out, replies in, each to whom it belongs."""

import asyncio
import re
from collections import deque
from typing import Any, cast

from hiredis import HiredisError, Reader, ReplyError

from tollhouse.core.problems import Unavailable

MOST_WAITING = 10_000
"""Batches that may wait for replies; more are refused, so a stalled Redis costs no
memory without bound."""
STALLED_SECONDS = 2.0
"""A reply overdue by this much: the connection is given up, another is tried."""
_LATE_SECONDS = 0.002
"""A timer this late says that our own loop was busy, not Redis."""

_PASSING = frozenset(
    (
        *("OOM", "READONLY", "LOADING", "BUSY", "UNKILLABLE", "MISCONF", "NOREPLICAS"),
        *("MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK"),
    )
)
"""Error codes of a Redis that can't serve now but may later."""
_REFUSING = frozenset(("NOAUTH", "WRONGPASS", "NOPERM", "DENIED"))
"""Error codes of a Redis that does not want us: an operator has to act."""
_INSIDE_SCRIPT = re.compile(r"-([A-Z]+) ")
"""Redis 6.2 wraps what a script's command failed with in an ERR of its own."""
_MISSING = object()


class RedisReplyError(ReplyError):
    """An error reply."""

    @property
    def code(self) -> str:
        """Redis' error code: NOSCRIPT, OOM, ERR, …; of the inner error for scripts."""
        text = str(self)
        code = text.partition(" ")[0]
        if code == "ERR" and (inner := _INSIDE_SCRIPT.search(text)):
            return inner[1]
        return code


def failure(error: Exception) -> Exception:
    """The exception to raise for a reply: Unavailable where Redis can't serve."""
    if isinstance(error, RedisReplyError):
        code = error.code
        if code in _PASSING or code in _REFUSING:
            # The code only: the rest may quote the command's arguments.
            unavailable = Unavailable(
                f"Redis answered {code}", transient=code in _PASSING
            )
            unavailable.__cause__ = error
            return unavailable
    return error


class Batch:
    """Commands sent together and the replies they wait for.

    The future's result is the list of replies, or a list of one Unavailable. It never
    holds an exception: nobody may be left to retrieve that.
    """

    __slots__ = ("deadline", "future", "replies", "wanted")

    def __init__(
        self, future: "asyncio.Future[list[Any]]", wanted: int, deadline: float
    ) -> None:
        self.future = future
        self.wanted = wanted
        self.deadline = deadline
        self.replies: list[Any] = []


class Connection(asyncio.Protocol):
    """Pairs replies with batches, and ends what takes longer than its budget."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = Reader(replyError=RedisReplyError, notEnoughData=_MISSING)
        self._unsent: list[bytes] = []
        self._waiting: deque[Batch] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._has_waited = False

    def send(self, packed: bytes, wanted: int, budget_seconds: float) -> Batch:
        """Send packed commands with this turn's others; raises Unavailable if full."""
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable("Redis is behind")
        loop = self._loop
        deadline = loop.time() + budget_seconds
        batch = Batch(loop.create_future(), wanted, deadline)
        if self.lost.is_set():
            batch.future.set_result([Unavailable("the connection to Redis is lost")])
            return batch
        if not self._unsent:
            loop.call_soon(self._flush)
        self._unsent.append(packed)
        self._waiting.append(batch)
        if self._timer is None or deadline < self._timer_at:
            self._set_timer(deadline)
        return batch

    def abort(self) -> None:
        """Drop the connection; every batch under way ends with Unavailable."""
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect, as the event loop calls it."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand each whole reply to the batch whose turn it is."""
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MISSING:
                batch = waiting[0]
                batch.replies.append(reply)
                if len(batch.replies) == batch.wanted:
                    waiting.popleft()
                    if not batch.future.done():
                        batch.future.set_result(batch.replies)
        except (HiredisError, IndexError):
            # Not RESP, or a reply nobody waits for: nothing here can be trusted.
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """End every batch under way; whether Redis applied it is not known."""
        self.lost.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for batch in self._waiting:
            _give_up(batch, "the connection to Redis is lost")
        self._waiting.clear()
        self._unsent.clear()

    def _flush(self) -> None:
        if self._unsent and self._transport is not None:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Kept apart: uvloop gives no `when` to a timer that is due already.
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._check)

    def _check(self) -> None:
        """End what is overdue, unless our own loop was late: then read first."""
        now = self._loop.time()
        self._timer = None
        if now - self._timer_at > _LATE_SECONDS and not self._has_waited:
            # uvloop runs timers before it reads: the replies may be waiting for us.
            self._has_waited = True
            self._set_timer(now + _LATE_SECONDS / 2)
            return
        self._has_waited = False
        next_check = None
        for batch in self._waiting:
            if batch.deadline <= now:
                _give_up(batch, "Redis took too long")
                if batch.deadline + STALLED_SECONDS <= now:
                    self.abort()
                    return
                due = batch.deadline + STALLED_SECONDS
            else:
                due = batch.deadline
            next_check = due if next_check is None else min(due, next_check)
        if next_check is not None:
            self._set_timer(next_check)


def _give_up(batch: Batch, reason: str) -> None:
    if not batch.future.done():
        batch.future.set_result([Unavailable(reason)])
