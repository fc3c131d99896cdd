"""Chunks: what a window ships to the provider, frozen before it is sent.

    SEAL ──▶ OPEN ──▶ SENT              the provider has it
              │ ▲ ──▶ PARKED ──▶ OPEN   an operator says retry
              └─┘          └──▶ DISCARDED
             attempts

A chunk never changes: every attempt sends the same bytes under the same identifier,
which the provider takes once. What moves is its `Progress`. An attempt is noted before
it is made, so after a crash it is known that the provider may have the chunk: it is *in
doubt*. Stripe remembers an identifier for 24 hours at least, so a chunk that was in
doubt for longer is looked up there before it is sent again.

Times are Unix seconds as whole numbers, passed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Protocol

from tollhouse.core.problems import Unavailable
from tollhouse.core.trace_context import TraceContext
from tollhouse.core.windows import SECONDS_PER_HOUR, TokenType

TRUSTED_SECONDS = 23 * 3600
"""How long an identifier is relied on: Stripe promises a rolling 24 hours."""
OLDEST_SECONDS = 34 * 24 * 3600
"""Stripe takes timestamps up to 35 days back."""
GIVEN_UP_SECONDS = 36 * 24 * 3600
"""Until then an old chunk in doubt is still looked up: perhaps it had arrived."""
PATIENCE_SECONDS = 3600
"""How long summaries may lag behind (they are eventually consistent)."""

_MINUTES = 60


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """Whose tokens of which kind in which hour (UTC, counted since 1970)."""

    tenant: str
    model: str
    token_type: TokenType
    hour: int

    @property
    def name(self) -> str:
        """As keys and listings show it: no part has a `|`."""
        return f"{self.tenant}|{self.model}|{self.token_type.value}|{self.hour}"

    @classmethod
    def parse(cls, name: str) -> "Window":
        """Read `name`. Raises ValueError for anything else."""
        tenant, model, token_type, hour = name.split("|")
        return cls(tenant, model, TokenType(token_type), int(hour))


@dataclass(frozen=True, slots=True)
class Account:
    """Who is charged at the provider, frozen with a chunk."""

    provider: str
    customer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a window on its way to the provider; immutable.

    `seq` counts the window's chunks from 1. `value` is tokens, negative for a
    correction. `timestamp` is a minute of the window's hour that no other of its next
    59 chunks has: the provider's summary of that minute answers for this chunk. `trace`
    is where one of the exchanges in it stands, if it has one of a trace that is kept;
    nothing of it is sent.
    """

    window: Window
    seq: int
    value: int
    timestamp: int
    identifier: str
    event_name: str
    account: Account
    trace: TraceContext | None = None

    @property
    def id(self) -> str:
        """The window's name and `seq`."""
        return f"{self.window.name}|{self.seq}"


def parse_id(id_: str) -> tuple[Window, int]:
    """Read a chunk's id: its window and `seq`. Raises ValueError for anything else."""
    name, _, seq = id_.rpartition("|")
    return Window.parse(name), int(seq)


def timestamp(hour: int, seq: int) -> int:
    """The minute of a window's hour that belongs to its chunk `seq`."""
    return hour * SECONDS_PER_HOUR + (seq - 1) % _MINUTES * 60


def identifier(deployment: str, shard: int, window: Window, seq: int) -> str:
    """What the provider knows a chunk by: the same whenever it is worked out.

    `deployment` tells gateways apart that share an account there. The shard is where
    to look when the provider names an identifier. 46 characters; Stripe takes 100.
    """
    text = f"{deployment}|{window.name}|{seq}"
    digest = blake2b(text.encode(), digest_size=20).hexdigest()
    return f"th1_{shard:02d}_{digest}"


class State(StrEnum):
    """Where a chunk is; the values are those in Redis."""

    OPEN = "open"
    SENT = "sent"
    PARKED = "parked"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a chunk's sending is.

    `attempts`: how many were begun. `doubt_at`: when the oldest attempt was begun that
    the provider may have applied unknown to us, and `doubted` its number; 0 for none.
    `begun_at`: when the last attempt was begun, 0 for never. `verify_at`: since when
    the provider is asked whether it has the chunk, instead of sending it; 0 for not.
    `absent_at`: when it last said that it has not; 0 for never. `reason`: why it is
    parked.
    """

    state: State = State.OPEN
    attempts: int = 0
    doubt_at: int = 0
    doubted: int = 0
    begun_at: int = 0
    verify_at: int = 0
    absent_at: int = 0
    reason: str = ""

    def begun(self, now: int) -> "Progress":
        """One more attempt is about to be made."""
        after = replace(self, attempts=self.attempts + 1, begun_at=now)
        if self.doubt_at:
            return after
        return replace(after, doubt_at=now, doubted=after.attempts)


class Step(StrEnum):
    """What to do next about an open chunk."""

    SEND = "send"
    VERIFY = "verify"
    PARK = "park"


def next_step(chunk: Chunk, progress: Progress, now: int) -> Step:
    """Decide what an open chunk needs."""
    age = now - chunk.timestamp
    if age > GIVEN_UP_SECONDS:
        return Step.PARK
    if progress.verify_at:
        return Step.VERIFY
    if progress.doubt_at and now - progress.doubt_at > TRUSTED_SECONDS:
        return Step.VERIFY
    if age > OLDEST_SECONDS:
        return Step.PARK
    # Never tried, as far as we know. Where our state is a backup's it may have been, so
    # long ago that its identifier is forgotten.
    if not progress.attempts and not progress.absent_at and age > TRUSTED_SECONDS:
        return Step.VERIFY
    return Step.SEND


class Verdict(StrEnum):
    """What the provider made of one attempt."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """It has an event of this identifier."""
    CONFLICT = "conflict"
    """It has seen this very attempt with other bytes."""
    REFUSED = "refused"
    """Certainly not applied, and may be sent again: too many calls, no connection."""
    UNKNOWN = "unknown"
    """Applied or not: no answer, or a failure on its side."""
    POISON = "poison"
    """It will never take this event."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, and the provider's code for it; never its text."""

    verdict: Verdict
    code: str = ""


def conclude(progress: Progress, *, number: int, answer: Answer, now: int) -> Progress:
    """Take in the answer to attempt `number`; others may have been begun since.

    A duplicate nobody is known to have sent, and a conflict: what we know is older than
    what we did, as when Redis was restored. Then the provider is asked what it has.
    """
    match answer.verdict:
        case Verdict.ACCEPTED:
            return replace(progress, state=State.SENT)
        case Verdict.DUPLICATE:
            if progress.attempts > number or progress.doubted not in (0, number):
                return replace(progress, state=State.SENT)
            return replace(progress, verify_at=now)
        case Verdict.CONFLICT:
            return replace(progress, verify_at=now)
        case Verdict.REFUSED:
            if progress.attempts == number == progress.doubted:
                return replace(progress, doubt_at=0, doubted=0)
            return progress
        case Verdict.UNKNOWN:
            return progress
        case Verdict.POISON:
            if progress.attempts == number == progress.doubted:
                progress = replace(progress, doubt_at=0, doubted=0)
            return parked(progress, reason=answer.code or "refused")


def verified(
    chunk: Chunk, progress: Progress, *, others: int, total: int, now: int
) -> Progress:
    """Take in what the provider has for the chunk's minute.

    `others`: what it should have without this chunk.
    """
    if total == others + chunk.value:
        return replace(progress, state=State.SENT, reason="")
    if total != others:
        return parked(progress, reason="provider_differs")
    if progress.verify_at:
        if now - progress.verify_at > PATIENCE_SECONDS:
            return parked(progress, reason="duplicate_not_counted")
        return progress
    if now - progress.begun_at <= PATIENCE_SECONDS:
        return progress  # the last attempt may not show yet
    return replace(progress, doubt_at=0, doubted=0, absent_at=now)


@dataclass(frozen=True, slots=True)
class Rejection:
    """What the provider took at first and found wrong later, and its code for that.

    `number` is the attempt's, 0 where the provider does not say.
    """

    identifier: str
    code: str
    number: int = 0


def rejected(progress: Progress, *, number: int, code: str, now: int) -> Progress:
    """Take in that attempt `number` was not counted after all; 0: one of them."""
    if number == progress.attempts or (not number and progress.attempts == 1):
        settled = replace(progress, doubt_at=0, doubted=0, verify_at=0)
        return parked(settled, reason=code)
    # A later attempt may have been counted.
    return replace(progress, state=State.OPEN, verify_at=now)


def parked(progress: Progress, *, reason: str) -> Progress:
    """Set a chunk aside for an operator."""
    return replace(progress, state=State.PARKED, reason=reason)


def pause_seconds(attempts: int, chance: float, *, longest: float) -> float:
    """How long to wait after `attempts` that failed: exponential, with full jitter.

    `chance` is drawn from [0, 1).
    """
    return min(longest, 2.0 ** min(attempts - 1, 30)) * (0.1 + 0.9 * chance)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sending of a chunk, the `number`-th."""

    chunk: Chunk
    number: int

    @property
    def key(self) -> str:
        """Of this attempt alone: a stored failure of an earlier one is not replayed."""
        return f"{self.chunk.identifier}@{self.number}"


class UnanswerableError(Unavailable):
    """The provider will never say what it has: the customer or the meter is gone."""


class Provider(Protocol):
    """Who turns chunks into an invoice."""

    @property
    def name(self) -> str:
        """As chunks remember it."""

    @property
    def most_at_once(self) -> int:
        """How many chunks one call takes."""

    async def ship(self, attempts: Sequence[Attempt]) -> Sequence[Answer]:
        """Send up to `most_at_once` chunks in one call; an answer for each, in order.

        Raises Unavailable when the provider can't be used at all (a refused key, a
        full disk): no chunk is to blame, none was applied, all wait.
        """

    async def total(self, customer: str, event_name: str, start: int, end: int) -> int:
        """What it has of a customer and meter from `start` to before `end`.

        Both are whole minutes. Raises Unavailable when it does not say now,
        UnanswerableError when it never will.
        """
