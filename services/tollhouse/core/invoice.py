"""A preview of what a month costs: windows by the prices of the catalog.

No invoice: free tiers, minimums, taxes and discounts are the provider's. Arithmetic is
exact; only the total is rounded, once, to the currency's smallest unit, halves to even.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact
from functools import reduce

from tollhouse.core.book import Book
from tollhouse.core.currency import smallest_units
from tollhouse.core.windows import BILLED, SECONDS_PER_HOUR, TokenType

_EXACT = Context(prec=60, traps=[Inexact])
"""Sums of windows have 19 digits at most and prices 9: nothing is ever rounded."""
_DECIMALS = {1: 0, 100: 2, 1000: 3}
_MILLION_DIGITS = 6
_MONTHS = 12


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month in UTC: windows are of whole UTC hours."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> "Month":
        """Read `2026-11`. Raises ValueError for anything else."""
        start = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        return cls(start.year, start.month)

    @classmethod
    def of(cls, unix: float) -> "Month":
        """The month of a time (Unix seconds)."""
        moment = datetime.fromtimestamp(unix, UTC)
        return cls(moment.year, moment.month)

    @property
    def first_hour(self) -> int:
        """Its first hour, counted since 1970."""
        start = datetime(self.year, self.month, 1, tzinfo=UTC)
        return int(start.timestamp()) // SECONDS_PER_HOUR

    @property
    def end_hour(self) -> int:
        """The first hour behind it."""
        years, month = divmod(self.month, _MONTHS)
        return Month(self.year + years, month + 1).first_hour

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """Tokens to be billed, by how far they are; what was discarded is not in it."""

    accepted: int = 0
    under_way: int = 0
    parked: int = 0
    unsealed: int = 0

    @classmethod
    def of(cls, book: Book) -> "Quantity":
        """What one window adds."""
        return cls(
            accepted=book.accepted,
            under_way=book.under_way,
            parked=book.parked,
            unsealed=book.unsealed,
        )

    def __add__(self, other: "Quantity") -> "Quantity":
        """Sum of each."""
        return Quantity(
            accepted=self.accepted + other.accepted,
            under_way=self.under_way + other.under_way,
            parked=self.parked + other.parked,
            unsealed=self.unsealed + other.unsealed,
        )

    @property
    def total(self) -> int:
        """All of it."""
        return self.accepted + self.under_way + self.parked + self.unsealed


@dataclass(frozen=True, slots=True)
class Line:
    """One model's tokens of one type.

    `price` is per million tokens; it and `amount` are None where the catalog does not
    have the model any more.
    """

    model: str
    token_type: TokenType
    quantity: Quantity
    price: Decimal | None
    amount: Decimal | None


@dataclass(frozen=True, slots=True)
class Preview:
    """All lines of a month, their exact sum, and what that is in coins.

    The sums leave out what has no price.
    """

    lines: tuple[Line, ...]
    currency: str
    total: Decimal
    rounded: Decimal

    @property
    def has_unpriced(self) -> bool:
        """Whether something has no price: then the total is too low."""
        return any(line.price is None for line in self.lines)


def preview(
    books: Iterable[tuple[str, TokenType, Book]],
    prices: Mapping[tuple[str, TokenType], Decimal],
    currency: str,
) -> Preview:
    """Add up the windows of a tenant and month, (model, token type, counters) each.

    `prices` are per million tokens. Types that nothing is billed of are left out.
    """
    sums: dict[tuple[str, TokenType], Quantity] = {}
    for model, token_type, book in books:
        if token_type in BILLED:
            at = model, token_type
            sums[at] = sums.get(at, Quantity()) + Quantity.of(book)
    lines = tuple(
        _line(model, token_type, sums[model, token_type], prices)
        for model, token_type in sorted(
            sums, key=lambda it: (it[0], BILLED.index(it[1]))
        )
        if sums[model, token_type] != Quantity()
    )
    amounts = (line.amount for line in lines if line.amount is not None)
    total = reduce(_EXACT.add, amounts, Decimal(0))
    return Preview(lines, currency, total, to_coins(total, currency))


def amount(tokens: int, per_million: Decimal) -> Decimal:
    """What tokens cost; exact."""
    product = _EXACT.multiply(Decimal(tokens), per_million)
    return _EXACT.scaleb(product, -_MILLION_DIGITS)


def to_coins(total: Decimal, currency: str) -> Decimal:
    """Round to the currency's smallest unit, halves to even."""
    decimals = _DECIMALS[smallest_units(currency)]
    return total.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN)


def _line(
    model: str,
    token_type: TokenType,
    quantity: Quantity,
    prices: Mapping[tuple[str, TokenType], Decimal],
) -> Line:
    price = prices.get((model, token_type))
    cost = None if price is None else amount(quantity.total, price)
    return Line(model, token_type, quantity, price, cost)
