"""The books of both sides, row by row, in the order that core/reconciliation needs.

Settled sums, streams, windows, chunks; then windows and sums once more. A record passes
from one book to the next in this order too, so none slips through between readings.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.billing_books import BillingBooks, ListedChunks, Row
from tollhouse.adapters.redis.gateway_books import (
    GatewayBooks,
    OnTheWay,
    Sums,
    TenantHour,
    first_covered,
)
from tollhouse.adapters.redis.refused import Waiting
from tollhouse.core.book import Book
from tollhouse.core.chunk import State, Window
from tollhouse.core.reconciliation import QUANTITIES, Flow, Listed, RowBooks, Span
from tollhouse.core.windows import BILLED, SECONDS_PER_HOUR, Position, TokenType

_AHEAD_HOURS = 2
"""Hours begin while one reads, and clocks differ."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rows are compared: of one tenant or all, from an hour on."""

    tenant: str | None
    from_hour: int

    def has(self, place: Position) -> bool:
        """Whether a row is among them."""
        return self.tenant in (None, place.tenant) and place.hour >= self.from_hour


class Books:
    """Reads both Redis. Methods raise Unavailable; times are Unix seconds."""

    def __init__(self, gateway: GatewayBooks, billing: BillingBooks) -> None:
        self._gateway = gateway
        self._billing = billing

    async def read(self, scope: Scope, now: float) -> list[RowBooks]:
        """All rows of a scope that any book knows, sorted."""
        from_hour = max(scope.from_hour, first_covered(now))
        to_hour = int(now) // SECONDS_PER_HOUR + _AHEAD_HOURS
        hours = await self._gateway.hours(scope.tenant, from_hour, to_hour)
        settled = await self._gateway.settled(hours)
        numbers: Collection[int] = range(shards.SHARDS)
        if scope.tenant is not None:
            numbers = [shards.shard(scope.tenant)]
        way = _once(await self._gateway.on_the_way(numbers))
        places = set(settled)
        places.update(it.place for it in way.all() if it.place is not None)
        places.update(await self._billing.places(scope.tenant, scope.from_hour))
        places.update(await self._billing.listed_places(scope.tenant))
        rows = sorted(filter(scope.has, places))
        return await self._compare(rows, scope.tenant, settled, way, from_hour)

    async def read_again(
        self, places: Iterable[Position], now: float
    ) -> list[RowBooks]:
        """These rows, as they are now."""
        rows = sorted(places)
        from_hour = first_covered(now)
        hours = _hours(rows, from_hour)
        settled = await self._gateway.settled(hours)
        numbers = sorted({shards.shard(it.tenant) for it in rows})
        way = _once(await self._gateway.on_the_way(numbers))
        tenants = {it.tenant for it in rows}
        tenant = tenants.pop() if len(tenants) == 1 else None
        return await self._compare(rows, tenant, settled, way, from_hour)

    async def _compare(
        self,
        places: Sequence[Position],
        tenant: str | None,
        settled: Sums,
        way: OnTheWay,
        from_hour: int,
    ) -> list[RowBooks]:
        seen = await self._billing.seen(way.outbox)
        first = await self._billing.rows(places)
        open_ = await self._billing.listed(tenant, State.OPEN)
        parked = await self._billing.listed(tenant, State.PARKED)
        second = await self._billing.rows(places)
        seen_again = await self._billing.seen(way.outbox)
        settled_again = await self._gateway.settled(_hours(places, from_hour))
        outbox = _spans(way.outbox, seen, seen_again)
        refused, dropped = _sums(way.refused), _sums(way.dropped)

        def flows(place: Position) -> dict[str, Flow] | None:
            if place.hour < from_hour:
                return None
            sums = settled.get(place, {}), settled_again.get(place, {})
            return {
                quantity: Flow(
                    settled=Span.over(*(it.get(quantity, 0) for it in sums)),
                    outbox=outbox.get(place, {}).get(quantity, Span()),
                    refused=refused.get(place, {}).get(quantity, 0),
                    dropped=dropped.get(place, {}).get(quantity, 0),
                )
                for quantity in QUANTITIES
            }

        return [
            RowBooks(
                place=place,
                flows=flows(place),
                counted=row.counted,
                books=row.books,
                open=_of_row(open_, place),
                parked=_of_row(parked, place),
                due=row.due,
                is_listed=row.is_listed,
                is_moving=_chunks_moved(row, again),
            )
            for place, row, again in zip(places, first, second, strict=True)
        ]


def _hours(places: Iterable[Position], from_hour: int) -> set[TenantHour]:
    return {(it.tenant, it.hour) for it in places if it.hour >= from_hour}


def _once(way: OnTheWay) -> OnTheWay:
    """Each record where it came to last: it may be seen on its way, and behind it."""
    dropped = {it.record_id for it in way.dropped}
    refused = {it.record_id: it for it in way.refused if it.record_id not in dropped}
    known = dropped | refused.keys()
    outbox = {it.record_id: it for it in way.outbox if it.record_id not in known}
    return OnTheWay(list(outbox.values()), list(refused.values()), way.dropped)


def _spans(
    outbox: Sequence[Waiting], seen: Sequence[bool], seen_again: Sequence[bool]
) -> dict[Position, dict[str, Span]]:
    """What the windows lack of the outbox, by row."""
    found: dict[Position, dict[str, Span]] = {}
    for it, was_there, is_there in zip(outbox, seen, seen_again, strict=True):
        if was_there or it.place is None:
            continue
        row = found.setdefault(it.place, {})
        for quantity, number in it.amounts.items():
            span = Span.over(0, number) if is_there else Span(number, number)
            row[quantity] = row.get(quantity, Span()) + span
    return found


def _sums(records: Iterable[Waiting]) -> dict[Position, Mapping[str, int]]:
    found: dict[Position, Mapping[str, int]] = {}
    for it in records:
        if it.place is not None:
            row = found.get(it.place, {})
            found[it.place] = {
                quantity: row.get(quantity, 0) + number
                for quantity, number in it.amounts.items()
            }
    return found


def _of_row(chunks: ListedChunks, place: Position) -> dict[TokenType, Sequence[Listed]]:
    return {
        it: chunks.get(Window(place.tenant, place.model, it, place.hour), [])
        for it in BILLED
    }


def _chunks_moved(row: Row, again: Row) -> bool:
    """Whether chunks came or changed; what is added to a window moves none."""
    return _sealed(row.books) != _sealed(again.books)


def _sealed(books: Mapping[TokenType, Book]) -> list[Book]:
    return [replace(it, total=0) for it in books.values()]
