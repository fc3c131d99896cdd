"""What was looked up lately, bounded in age, in number and in what it costs Redis.

Known and unknown credentials are kept apart: whoever tries keys can push out only other
failed tries. One look-up per credential is under way at a time, however many ask. While
Redis is away, and for no other reason, known ones go on as they were for a while, but
for those it is known of that they changed; about others nothing can be said.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import structlog

from tollhouse.core.problems import ProtocolError, Unavailable

FRESH_SECONDS = 4.0
"""The longest a change may stay unseen that nobody told us of."""
AHEAD_SECONDS = 3.0
"""From this age a credential in use is looked up again, before anybody has to wait."""
KEPT_SECONDS = 300.0
"""The longest a known credential lives on without Redis."""
RETRY_SECONDS = 0.25
"""After a failed look-up known credentials go without one for so long: a Redis that
hangs must not cost every request its time limit."""
TELL_SECONDS = 10.0
"""Of losses that follow each other faster the log has the first: whoever tries keys
until look-ups are late must not write it."""
MOST_CHANGES = 50_000
"""Names told to have changed that are remembered."""

_log = structlog.get_logger()

V = TypeVar("V")


@dataclass(slots=True)
class _Known(Generic[V]):
    value: V
    checked_at: float
    names: tuple[str, ...]


class Lookup(StrEnum):
    """What the cache knew when it was asked."""

    HIT = "hit"
    MISS = "miss"
    """Nothing fresh: somebody waits for Redis, or for an issuer's keys."""
    NEGATIVE = "negative"
    """That there is no such credential."""


class Undecided(Exception):
    """Raised by a look-up that can't tell, for another reason than Redis."""


class Unasked(Exception):
    """Raised by a look-up that found none, and asked no Redis to know it."""


class _Away(Exception):
    """The look-up had no answer."""


Find = Callable[[V | None], Awaitable[V | None]]
"""Looks a credential up; gets the value it had, if any."""


class Cache(Generic[V]):
    """Values by digest.

    `names_of` a value are those by which `changed` may speak of it. `lookups` are
    counted up.
    """

    def __init__(
        self,
        names_of: Callable[[V], tuple[str, ...]],
        *,
        most_known: int = 20_000,
        most_unknown: int = 20_000,
        clock: Callable[[], float] = time.monotonic,
        lookups: Counter[Lookup] | None = None,
    ) -> None:
        self._lookups = Counter[Lookup]() if lookups is None else lookups
        self._names_of = names_of
        self._most_known = most_known
        self._most_unknown = most_unknown
        self._clock = clock
        self._known: OrderedDict[str, _Known[V]] = OrderedDict()
        self._unknown: OrderedDict[str, _Known[None]] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[_Known[V] | _Known[None]]] = {}
        self._changes: OrderedDict[str, float] = OrderedDict()
        self._missed_at = float("-inf")
        self._forgotten_at = float("-inf")
        self._failed_at = float("-inf")
        self._is_away = False
        self._is_loss_told = False
        self._told_at = float("-inf")

    def fresh(self, digest: str) -> V | None:
        """The value of a known digest that nothing has to be done for; else `get` it.

        The way of nearly every request: what `get` would say, for less.
        """
        known = self._known.get(digest)
        if (
            known is None
            or self._clock() - known.checked_at >= AHEAD_SECONDS
            or self._is_overtaken(known)
        ):
            return None
        self._known.move_to_end(digest)
        self._lookups[Lookup.HIT] += 1
        return known.value

    async def get(self, digest: str, name: str, find: Find[V]) -> V | None:
        """The value, None for an unknown digest.

        `name` is what `changed` would call it, were it known. Raises Unavailable when
        neither Redis nor memory can tell; then nothing may be concluded about the
        credential.
        """
        now = self._clock()
        known = self._known.get(digest)
        if known is None:
            unknown = self._unknown.get(digest)
            if unknown is not None and self._is_fresh(unknown, now):
                self._lookups[Lookup.NEGATIVE] += 1
                return None
        else:
            self._known.move_to_end(digest)
            rests = now - self._failed_at < RETRY_SECONDS
            if self._is_fresh(known, now):
                if now - known.checked_at >= AHEAD_SECONDS and not rests:
                    self._look_up(digest, name, find, known.value)
                self._lookups[Lookup.HIT] += 1
                return known.value
            if self._is_away and self._may_live_on(known, now):
                # Nobody waits for a Redis that hangs; who comes next finds it back.
                if not rests:
                    self._look_up(digest, name, find, known.value)
                self._lookups[Lookup.HIT] += 1
                return known.value
        self._lookups[Lookup.MISS] += 1
        value = None if known is None else known.value
        try:
            # Shielded: others wait for the same look-up when this client leaves.
            kept = await asyncio.shield(self._look_up(digest, name, find, value))
            if self._is_overtaken(kept):
                # Once: whoever changes things without end must not keep us asking.
                kept = await asyncio.shield(self._look_up(digest, name, find, value))
        except _Away as error:
            known = self._known.get(digest)
            if known is not None and self._may_live_on(known, now):
                return known.value
            raise Unavailable("the credential can't be looked up") from error
        return kept.value

    def changed(self, name: str) -> None:
        """Take note that whatever goes by a name has changed just now."""
        now = self._clock()
        self._changes[name] = now
        self._changes.move_to_end(name)
        while self._changes:
            oldest, at = next(iter(self._changes.items()))
            if len(self._changes) <= MOST_CHANGES and now - at < KEPT_SECONDS:
                break
            del self._changes[oldest]
            if now - at < KEPT_SECONDS:  # whose change it was is not known any more
                self._forgotten_at = max(self._forgotten_at, at)

    def missed(self) -> None:
        """Take note that anything may have changed until now.

        Said when listening begins: Redis has just answered, so nothing lives on.
        """
        self._missed_at = self._clock()
        self._is_away = False

    def _is_fresh(self, kept: _Known[V] | _Known[None], now: float) -> bool:
        return now - kept.checked_at < FRESH_SECONDS and not self._is_overtaken(kept)

    def _is_overtaken(self, kept: _Known[V] | _Known[None]) -> bool:
        """Whether it may have changed since it was asked for."""
        return kept.checked_at <= self._missed_at or self._has_changed(kept)

    def _may_live_on(self, kept: _Known[V], now: float) -> bool:
        return now - kept.checked_at < KEPT_SECONDS and not self._has_changed(kept)

    def _has_changed(self, kept: _Known[V] | _Known[None]) -> bool:
        if kept.checked_at <= self._forgotten_at:
            return True
        changes = self._changes
        return bool(changes) and any(
            changes.get(name, float("-inf")) >= kept.checked_at for name in kept.names
        )

    def _look_up(
        self, digest: str, name: str, find: Find[V], value: V | None
    ) -> "asyncio.Task[_Known[V] | _Known[None]]":
        """Start a look-up, or join the one under way."""
        task = self._under_way.get(digest)
        if task is None:
            task = asyncio.create_task(self._refresh(digest, name, find, value))
            self._under_way[digest] = task
            task.add_done_callback(lambda it: self._finish(digest, it))
        return task

    def _finish(
        self, digest: str, task: "asyncio.Task[_Known[V] | _Known[None]]"
    ) -> None:
        del self._under_way[digest]
        if not task.cancelled():
            task.exception()  # seen: whoever waits for it handles it, maybe nobody

    async def _refresh(
        self, digest: str, name: str, find: Find[V], value: V | None
    ) -> _Known[V] | _Known[None]:
        # The age counts from the question: the answer may be older than its arrival.
        asked_at = self._clock()
        try:
            found = await find(value)
        except Unavailable as error:
            self._note_loss(error)
            raise _Away from error
        except Undecided as error:
            raise Unavailable("the credential can't be judged") from error
        except Unasked:
            found = None
        except ProtocolError as error:
            self._note_answer()
            _log.error("credential.misread", reason=str(error))
            raise Unavailable("the credential can't be read") from error
        else:
            self._note_answer()
        return self._keep(digest, name, found, asked_at)

    def _note_loss(self, error: Unavailable) -> None:
        now = self._failed_at = self._clock()
        self._is_away = True
        if not self._is_loss_told and now - self._told_at >= TELL_SECONDS:
            self._is_loss_told = True
            self._told_at = now
            _log.warning("redis.lost", reason=str(error))

    def _note_answer(self) -> None:
        self._is_away = False
        if self._is_loss_told:
            self._is_loss_told = False
            _log.info("redis.returned")

    def _keep(
        self, digest: str, name: str, found: V | None, asked_at: float
    ) -> _Known[V] | _Known[None]:
        if found is None:
            self._known.pop(digest, None)
            unknown = self._unknown[digest] = _Known(None, asked_at, (name,))
            self._unknown.move_to_end(digest)
            if len(self._unknown) > self._most_unknown:
                self._unknown.popitem(last=False)
            return unknown
        self._unknown.pop(digest, None)
        known = self._known[digest] = _Known(found, asked_at, self._names_of(found))
        self._known.move_to_end(digest)
        if len(self._known) > self._most_known:
            self._known.popitem(last=False)
        return known
