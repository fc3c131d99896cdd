"""Reconciliation: whether every token that was settled is where it should be, once.

Of each row (tenant, hour, model) and quantity (token types, exchanges):

    settled = outbox + refused + dropped + total     gateway = aggregator
    total   = sealed + unsealed                      unsealed: in line to be sealed
    sealed  = accepted + open + parked + discarded   open, parked: as the chunks say
    accepted = the provider's own total

Books that are read one after the other, while traffic flows, don't show one moment. So
what moves is read twice, before and after the rest: a record that was settled before
the first reading is in the outbox or the windows, and what is in these was settled
before the second. In between nothing is a difference; a row nothing happens to has no
in between and is compared exactly.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tollhouse.core.book import Book
from tollhouse.core.chunk import State
from tollhouse.core.windows import AS_PROMISED, BILLED, Position, TokenType

EXCHANGES = "exchanges"
QUANTITIES: tuple[str, ...] = (*TokenType, EXCHANGES)
"""What is compared between gateway and aggregator."""

OVERDUE_SECONDS = 3600
"""How long after its time a row may wait to be sealed: the aggregator was down, or
just started."""


class Finding(StrEnum):
    """What is wrong; docs/billing.md says what each means and what to do."""

    MISSING = "missing"
    """Settled, and in no window, outbox or list of refused records."""
    REPLAYED = "replayed?"
    """The same, of whole exchanges: lost, or settled twice from an old ledger."""
    SURPLUS = "surplus"
    """In windows, and never settled as far as the gateway's Redis knows."""
    UNLISTED = "unlisted"
    """Counted, but in no list of rows: `usage` and `preview` don't show it."""
    UNQUEUED = "unqueued"
    """In no chunk, and not in line to be sealed."""
    OVERDUE = "overdue"
    """Should have been sealed more than OVERDUE_SECONDS ago."""
    UNLINKED = "unlinked"
    """The same, because the tenant is no customer of the provider."""
    CHUNKS = "chunks"
    """The chunks do not add up to what was sealed."""
    PARKED = "parked"
    """The parked chunks do not add up to what the window says is parked."""
    STUCK = "stuck"
    """Waits for a chunk that nobody will ever send."""
    ACCEPTED = "accepted"
    """The sent chunks do not add up to what the window says was accepted."""
    PROVIDER_LESS = "provider less"
    """The provider has less than was sent to it."""
    PROVIDER_MORE = "provider more"
    """The provider has more than was sent to it."""


@dataclass(frozen=True, slots=True)
class Span:
    """A quantity that is known to be between two numbers."""

    low: int = 0
    high: int = 0

    @classmethod
    def over(cls, *numbers: int) -> "Span":
        """The shortest that has all numbers in it."""
        return cls(min(numbers), max(numbers))

    def __add__(self, other: "Span") -> "Span":
        """What the sum is known to be between."""
        return Span(self.low + other.low, self.high + other.high)

    def joined(self, other: "Span") -> "Span":
        """The shortest that has both in it."""
        return Span(min(self.low, other.low), max(self.high, other.high))

    def outside(self, number: int) -> int:
        """How far a number is above (positive) or below the span; 0: in it."""
        return number - min(max(number, self.low), self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The gateway's side of one quantity of a row.

    `settled`: over two readings around all others. `outbox`: of records that are in no
    window yet; a span where one came into a window meanwhile. `refused`: records that
    the aggregator refused; `dropped`: of those, what an operator discarded.
    """

    settled: Span = Span()
    outbox: Span = Span()
    refused: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """A chunk that is in the list of open or of parked ones, `state` of its own."""

    seq: int
    value: int
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBooks:
    """All that is kept of one row.

    `flows` is None where the gateway keeps no sums any more. `counted`: totals of the
    windows, and exchanges. `open` and `parked`: the listed chunks. `due`: when the row
    is in line to be sealed (Unix seconds), None if it is not. `is_moving`: the windows
    changed while the chunks were read, so that these can't be compared.
    """

    place: Position
    flows: Mapping[str, Flow] | None
    counted: Mapping[str, int]
    books: Mapping[TokenType, Book]
    open: Mapping[TokenType, Sequence[Listed]]
    parked: Mapping[TokenType, Sequence[Listed]]
    due: float | None
    is_listed: bool
    is_moving: bool = False
    has_account: bool = True


@dataclass(frozen=True, slots=True)
class Difference:
    """One equation that does not hold; `expected` is its left side."""

    finding: Finding
    place: Position
    quantity: str
    expected: int
    found: int


def differences(row: RowBooks, now: float) -> list[Difference]:
    """Check one row; `now` is Unix seconds."""
    found = [*_of_flows(row), *_of_list(row)]
    for token_type in BILLED:
        found += _of_sealing(row, token_type, now)
        if not row.is_moving:
            found += _of_chunks(row, token_type)
    return found


def _of_flows(row: RowBooks) -> Iterator[Difference]:
    if row.flows is None:
        return
    excess: dict[str, Difference] = {}
    for quantity in QUANTITIES:
        flow = row.flows.get(quantity, Flow())
        fixed = row.counted.get(quantity, 0) + flow.refused + flow.dropped
        low, high = fixed + flow.outbox.low, fixed + flow.outbox.high
        if high < flow.settled.low:
            excess[quantity] = Difference(
                Finding.MISSING, row.place, quantity, flow.settled.low, high
            )
        elif low > flow.settled.high:
            yield Difference(
                Finding.SURPLUS, row.place, quantity, flow.settled.high, low
            )
    # A replay repeats whole exchanges, none of which the windows lack.
    is_replay = EXCHANGES in excess and all(
        it.expected <= 2 * it.found for it in excess.values()
    )
    for it in excess.values():
        finding = Finding.REPLAYED if is_replay else it.finding
        yield Difference(finding, it.place, it.quantity, it.expected, it.found)


def _of_list(row: RowBooks) -> Iterator[Difference]:
    if not row.is_listed and any(row.counted.values()):
        exchanges = row.counted.get(EXCHANGES, 0)
        yield Difference(Finding.UNLISTED, row.place, EXCHANGES, exchanges, 0)


def _of_sealing(
    row: RowBooks, token_type: TokenType, now: float
) -> Iterator[Difference]:
    unsealed = row.books.get(token_type, Book()).unsealed
    if not unsealed:
        return
    if row.due is None:
        if not row.is_moving:  # else it was just sealed
            yield Difference(Finding.UNQUEUED, row.place, token_type, unsealed, 0)
    elif row.due < now - OVERDUE_SECONDS:
        yield Difference(Finding.OVERDUE, row.place, token_type, 0, unsealed)
    elif not row.has_account and AS_PROMISED.due(row.place.hour, 0) < now - (
        OVERDUE_SECONDS
    ):
        yield Difference(Finding.UNLINKED, row.place, token_type, 0, unsealed)


def _of_chunks(row: RowBooks, token_type: TokenType) -> Iterator[Difference]:
    book = row.books.get(token_type, Book())
    listed = row.open.get(token_type, ())
    open_ = sum(it.value for it in listed if it.state is State.OPEN)
    parked = sum(
        it.value for it in row.parked.get(token_type, ()) if it.state is State.PARKED
    )
    if parked != book.parked:
        yield Difference(Finding.PARKED, row.place, token_type, book.parked, parked)
    parts = book.accepted + open_ + parked + book.discarded
    if parts != book.sealed:
        yield Difference(Finding.CHUNKS, row.place, token_type, book.sealed, parts)
    if book.open_seq and book.open_seq not in {it.seq for it in listed}:
        yield Difference(Finding.STUCK, row.place, token_type, book.open_seq, 0)


@dataclass(slots=True)
class Totals:
    """Where tokens are, over all rows; each once, so cached input is in the input."""

    rows: int = 0
    exchanges: int = 0
    tokens: int = 0
    outbox: int = 0
    refused: int = 0
    dropped: int = 0
    unsealed: int = 0
    under_way: int = 0
    parked: int = 0
    discarded: int = 0
    accepted: int = 0
    not_covered: int = 0
    """Rows of which the gateway keeps no sums any more."""
    moving: int = 0
    """Rows whose chunks could not be compared: they changed whenever one looked."""

    def add(self, row: RowBooks) -> None:
        """Count a row."""
        self.rows += 1
        self.not_covered += row.flows is None
        self.moving += row.is_moving
        flows = row.flows or {}
        waiting = flows.get(EXCHANGES, Flow())
        self.exchanges += row.counted.get(EXCHANGES, 0) + waiting.outbox.low
        for token_type in BILLED:
            flow = flows.get(token_type, Flow())
            book = row.books.get(token_type, Book())
            self.tokens += book.total + flow.outbox.low
            self.outbox += flow.outbox.low
            self.refused += flow.refused
            self.dropped += flow.dropped
            self.unsealed += book.unsealed
            self.under_way += book.under_way
            self.parked += book.parked
            self.discarded += book.discarded
            self.accepted += book.accepted
