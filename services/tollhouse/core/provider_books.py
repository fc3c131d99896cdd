"""What the provider should have, by what became of each chunk.

A chunk counts for its lane (customer and meter) and hour. What is in doubt, or was sent
so lately that the provider's summaries may not show it yet, it may have or not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tollhouse.core.book import Book
from tollhouse.core.chunk import Chunk, Progress, State, Window
from tollhouse.core.reconciliation import Difference, Finding, Span
from tollhouse.core.windows import Position

HOURS_A_DAY = 24


@dataclass(frozen=True, slots=True, order=True)
class Lane:
    """What a provider's totals are asked by."""

    provider: str
    customer: str
    event_name: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A chunk and how far it is; `sent_at` (Unix seconds) is 0 unless it was sent."""

    chunk: Chunk
    progress: Progress
    sent_at: float = 0.0

    @property
    def lane(self) -> Lane:
        """Where it counts."""
        account = self.chunk.account
        return Lane(account.provider, account.customer, self.chunk.event_name)


Expected = dict[tuple[Lane, int], Span]
"""By lane and hour."""


def expected(chunks: Iterable[Kept], *, shown: float) -> Expected:
    """What the provider should say; `shown`: what was sent by then it shows by now."""
    found: Expected = {}
    for kept in chunks:
        span = _span(kept, shown)
        if span is not None:
            at = kept.lane, kept.chunk.window.hour
            found[at] = found.get(at, Span()) + span
    return found


def _span(kept: Kept, shown: float) -> Span | None:
    value = kept.chunk.value
    if kept.progress.state is State.SENT and kept.sent_at <= shown:
        return Span(value, value)
    if kept.progress.state is State.SENT or kept.progress.doubt_at:
        return Span.over(0, value)
    return None


def accepted(
    book: Book, window: Window, chunks: Mapping[int, Kept]
) -> Difference | None:
    """Compare a window's own count with its sent chunks, by `seq`.

    Nothing to compare where one is not kept any more.
    """
    if len(chunks) < book.last_seq:
        return None
    sent = sum(
        it.chunk.value for it in chunks.values() if it.progress.state is State.SENT
    )
    if sent == book.accepted:
        return None
    place = Position(window.tenant, window.hour, window.model)
    return Difference(Finding.ACCEPTED, place, window.token_type, book.accepted, sent)


def by_day(hours: Iterable[int]) -> dict[int, list[int]]:
    """Hours by their day, counted since 1970, both in order."""
    days: dict[int, list[int]] = {}
    for hour in sorted(hours):
        days.setdefault(hour // HOURS_A_DAY, []).append(hour)
    return days
