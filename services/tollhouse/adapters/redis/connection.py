"""One connection to Redis: bytes out, replies in, each to whom it belongs."""

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable
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
        *("MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "NOSCRIPT"),
    )
)
"""Error codes of a Redis that can't serve now but may later."""
_LEAVING = frozenset(("LOADING", "MASTERDOWN", "READONLY"))
"""Error codes of a Redis we should not be at: the address may lead to another soon."""
_REFUSING = frozenset(("NOAUTH", "WRONGPASS", "NOPERM", "DENIED"))
"""Error codes of a Redis that does not want us: an operator has to act."""
_INSIDE_SCRIPT = re.compile(r"-([A-Z]+) ")
"""Redis 6.2 wraps what a script's command failed with in an ERR of its own."""
_SCRIPT_MAY_NOT = "The user executing the script can't"
"""What a script's command fails with without leave: NOPERM, though it is an ERR."""
_LOST = "the connection to Redis is lost"
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
        if code == "ERR" and _SCRIPT_MAY_NOT in text:
            return "NOPERM"
        return code

    @property
    def is_refusal(self) -> bool:
        """Whether Redis does not want us, or not this of us: no outage."""
        return self.code in _REFUSING


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

    __slots__ = ("deadline", "future", "half_time", "replies", "wanted", "write")

    def __init__(
        self,
        future: "asyncio.Future[list[Any]]",
        wanted: int,
        *,
        write: "_Write",
        made: float,
        budget_seconds: float,
    ) -> None:
        self.future = future
        self.wanted = wanted
        self.write = write
        self.half_time = made + budget_seconds / 2
        self.deadline = made + budget_seconds
        self.replies: list[Any] = []

    def give_up(self, reason: str, *, ours: bool = False) -> None:
        """End it with Unavailable."""
        if not self.future.done():
            self.future.set_result([Unavailable(reason, ours=ours)])


class _Write:
    """What one turn of the loop sends."""

    __slots__ = ("at", "packed")

    def __init__(self) -> None:
        self.packed: list[bytes] = []
        self.at = math.inf
        """When it was sent."""


class Connection(asyncio.Protocol):
    """Pairs replies with batches, and ends what takes longer than its budget."""

    def __init__(
        self, refused: Callable[[RedisReplyError], None] = lambda _: None
    ) -> None:
        """`refused` is called with every reply that says we may not do what we ask."""
        self.lost = asyncio.Event()
        self.lost_by: Exception | None = None
        """What ended it, if the server did not just go."""
        self._refused = refused
        self.is_refused = False
        """Whether the server said it can't serve us, and was left for that."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = Reader(replyError=RedisReplyError, notEnoughData=_MISSING)
        self._unsent = _Write()
        self._waiting: deque[Batch] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._lag = 0.0

    def send(self, packed: bytes, wanted: int, budget_seconds: float) -> Batch:
        """Send packed commands with this turn's others; raises Unavailable if full."""
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable("Redis is behind")
        loop, write = self._loop, self._unsent
        batch = Batch(
            loop.create_future(),
            wanted,
            write=write,
            made=loop.time(),
            budget_seconds=budget_seconds,
        )
        if self.lost.is_set():
            batch.future.set_result([Unavailable(_LOST)])
            return batch
        if not write.packed:
            loop.call_soon(self._flush)
        write.packed.append(packed)
        self._waiting.append(batch)
        if self._timer is None or batch.deadline < self._timer_at:
            self._set_timer(batch.deadline)
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
                if isinstance(reply, RedisReplyError):
                    self._take_note(reply)
                batch = waiting[0]
                batch.replies.append(reply)
                if len(batch.replies) == batch.wanted:
                    waiting.popleft()
                    if not batch.future.done():
                        batch.future.set_result(batch.replies)
        except (HiredisError, IndexError):
            # Not RESP, or a reply nobody waits for: nothing here can be trusted.
            self.abort()
        if self.is_refused:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End every batch under way; whether Redis applied it is not known."""
        self.lost_by = self.lost_by or exc
        self.lost.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for batch in self._waiting:
            batch.give_up(_LOST)
        self._waiting.clear()
        self._unsent.packed.clear()

    def _take_note(self, error: RedisReplyError) -> None:
        if error.code in _LEAVING:
            self.is_refused = True
        elif error.is_refusal:
            self._refused(error)

    def _flush(self) -> None:
        write = self._unsent
        if write.packed and self._transport is not None:
            self._transport.write(b"".join(write.packed))
            write.at = self._loop.time()
            self._unsent = _Write()

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
        if now - self._timer_at > _LATE_SECONDS and not self._lag:
            # uvloop runs timers before it reads: the replies may be waiting for us.
            self._lag = now - self._timer_at
            self._set_timer(now + _LATE_SECONDS / 2)
            return
        lag, self._lag = self._lag, 0.0
        next_check = None
        for batch in self._waiting:
            if batch.deadline <= now:
                # Half the budget lost before the write or by the lag: no fair trial.
                ours = batch.write.at + lag > batch.half_time
                batch.give_up("Redis took too long", ours=ours)
                if batch.deadline + STALLED_SECONDS <= now:
                    self.abort()
                    return
                due = batch.deadline + STALLED_SECONDS
            else:
                due = batch.deadline
            next_check = due if next_check is None else min(due, next_check)
        if next_check is not None:
            self._set_timer(next_check)
