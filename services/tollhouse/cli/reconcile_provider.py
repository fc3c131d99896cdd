"""The last equation of `tollhouse reconcile`: what was sent is what the provider has.

A provider is asked by customer, meter and day; where a day differs, by hour. What moves
meanwhile is read before and after.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tollhouse.adapters.redis.billing_books import BillingBooks
from tollhouse.core.book import Book
from tollhouse.core.chunk import Provider, Window
from tollhouse.core.problems import Unavailable
from tollhouse.core.provider_books import (
    HOURS_A_DAY,
    Expected,
    Kept,
    Lane,
    accepted,
    by_day,
    expected,
)
from tollhouse.core.reconciliation import Difference, Finding, RowBooks, Span
from tollhouse.core.windows import SECONDS_PER_HOUR, Position, TokenType

CALLS_AT_ONCE = 4
"""Stripe takes 25 reads a second in test mode."""

Books = Sequence[tuple[Window, Book]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A provider, and how long after a sending it may not show it yet (seconds)."""

    provider: Provider
    lag_seconds: float = 0.0


@dataclass(slots=True)
class Compared:
    """What differs, and what nobody could be asked about."""

    differences: list[Difference] = field(default_factory=list)
    checked: int = 0
    """Customers, meters and days."""
    unasked: set[str] = field(default_factory=set)
    """Providers that chunks were sent to and that nobody named."""
    failures: list[str] = field(default_factory=list)
    """What a provider did not say, and why."""


class ProviderComparison:
    """Compares windows with the providers that were given, by name."""

    def __init__(
        self, billing: BillingBooks, asked: Mapping[str, Asked], from_hour: int
    ) -> None:
        self._billing = billing
        self._asked = asked
        self._from_hour = from_hour
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)

    async def compare(self, rows: Iterable[RowBooks]) -> Compared:
        """Compare what rows sent. Raises Unavailable for Redis alone."""
        result = Compared()
        books = [book for row in rows for book in _books(row)]
        chunks, sums = await self._read(books)
        suspects = await self._ask(sums, result)
        unequal = {window for window, book in books if _unequal(window, book, chunks)}
        if not suspects and not unequal:
            return result
        whose = _whose(chunks)
        wanted = {(*whose[lane], hour) for lane, hour, _ in suspects}
        windows = [
            it
            for it, _ in books
            if it in unequal or (it.tenant, it.model, it.token_type, it.hour) in wanted
        ]
        again = await self._again(windows)
        chunks, later = await self._read(again)
        for (window, book), (_, last) in zip(
            again, await self._again(windows), strict=True
        ):
            difference = accepted(book, window, chunks.get(window, {}))
            # What changed while its chunks were read can't be compared with them.
            is_moving = replace(book, total=0) != replace(last, total=0)
            if difference is not None and not is_moving and window in unequal:
                result.differences.append(difference)
        for lane, hour, total in suspects:
            span = sums.get((lane, hour), Span())
            span = span.joined(later.get((lane, hour), Span()))
            if span.outside(total):
                result.differences.append(_differ(whose[lane], hour, span, total))
        return result

    async def _ask(
        self, sums: Expected, result: Compared
    ) -> list[tuple[Lane, int, int]]:
        """The hours whose total is not as expected, with it."""
        lanes: dict[Lane, list[int]] = {}
        for lane, hour in sums:
            lanes.setdefault(lane, []).append(hour)
        result.unasked = {it.provider for it in lanes} - self._asked.keys()
        days = [
            (lane, day)
            for lane, hours in sorted(lanes.items())
            if lane.provider in self._asked
            for day in by_day(hours)
        ]
        result.checked = len(days)
        looks = await asyncio.gather(
            *(self._day(*it, sums) for it in days), return_exceptions=True
        )
        suspects: list[tuple[Lane, int, int]] = []
        for (lane, _), look in zip(days, looks, strict=True):
            if isinstance(look, Unavailable):
                result.failures.append(f"{lane.customer} {lane.event_name}: {look}")
            elif isinstance(look, BaseException):
                raise look
            else:
                suspects += look
        return suspects

    async def _read(
        self, books: Books
    ) -> tuple[dict[Window, dict[int, Kept]], Expected]:
        chunks = await self._billing.chunks(books, time.time())
        sums: Expected = {}
        kept: dict[str, list[Kept]] = {}
        for of_window in chunks.values():
            for it in of_window.values():
                kept.setdefault(it.lane.provider, []).append(it)
        for name, of_provider in kept.items():
            asked = self._asked.get(name)
            lag = 0.0 if asked is None else asked.lag_seconds
            sums |= expected(of_provider, shown=time.time() - lag)
        return chunks, sums

    async def _again(self, windows: Sequence[Window]) -> Books:
        places = [Position(it.tenant, it.hour, it.model) for it in windows]
        rows = await self._billing.rows(places)
        return [
            (window, row.books[window.token_type])
            for window, row in zip(windows, rows, strict=True)
        ]

    async def _day(
        self, lane: Lane, day: int, sums: Expected
    ) -> list[tuple[Lane, int, int]]:
        """The hours of a day whose total is not as expected."""
        first = max(day * HOURS_A_DAY, self._from_hour)
        end = (day + 1) * HOURS_A_DAY
        span = Span()
        for hour in range(first, end):
            span += sums.get((lane, hour), Span())
        if not span.outside(await self._total(lane, first, end)):
            return []
        hours = range(first, end)
        totals = await asyncio.gather(
            *(self._total(lane, hour, hour + 1) for hour in hours)
        )
        return [
            (lane, hour, total)
            for hour, total in zip(hours, totals, strict=True)
            if sums.get((lane, hour), Span()).outside(total)
        ]

    async def _total(self, lane: Lane, first: int, end: int) -> int:
        provider = self._asked[lane.provider].provider
        # A whole minute: what has just begun can't be asked about.
        now = int(time.time()) // 60 * 60
        start, stop = first * SECONDS_PER_HOUR, min(end * SECONDS_PER_HOUR, now)
        if stop <= start:
            return 0
        async with self._turns:
            return await provider.total(lane.customer, lane.event_name, start, stop)


def _books(row: RowBooks) -> list[tuple[Window, Book]]:
    place = row.place
    return [
        (Window(place.tenant, place.model, token_type, place.hour), book)
        for token_type, book in row.books.items()
    ]


_Series = tuple[str, str, TokenType]


def _whose(chunks: Mapping[Window, Mapping[int, Kept]]) -> dict[Lane, _Series]:
    """Whose tokens of what a lane has."""
    return {
        it.lane: (window.tenant, window.model, window.token_type)
        for window, of_window in chunks.items()
        for it in of_window.values()
    }


def _unequal(
    window: Window, book: Book, chunks: Mapping[Window, Mapping[int, Kept]]
) -> bool:
    return accepted(book, window, chunks.get(window, {})) is not None


def _differ(series: _Series, hour: int, span: Span, total: int) -> Difference:
    tenant, model, token_type = series
    is_more = span.outside(total) > 0
    return Difference(
        Finding.PROVIDER_MORE if is_more else Finding.PROVIDER_LESS,
        Position(tenant, hour, model),
        token_type,
        span.high if is_more else span.low,
        total,
    )
