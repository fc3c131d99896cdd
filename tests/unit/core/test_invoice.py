"""A preview is exact to the last digit, and says what it can't know."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.book import Book
from tollhouse.core.invoice import Month, Quantity, amount, preview, to_coins
from tollhouse.core.windows import BILLED, TokenType

OUTPUT = TokenType.OUTPUT

PRICES = st.decimals(0, 10_000, places=4)
TOKENS = st.integers(-(2**53), 2**53)


@st.composite
def book_lists(draw: st.DrawFn) -> list[tuple[str, TokenType, Book]]:
    return [
        (
            draw(st.sampled_from(["a", "m/2"])),
            draw(st.sampled_from(list(TokenType))),
            Book(
                total=draw(TOKENS),
                sealed=draw(TOKENS),
                accepted=draw(TOKENS),
                parked=draw(TOKENS),
                discarded=draw(TOKENS),
            ),
        )
        for _ in range(draw(st.integers(0, 20)))
    ]


@given(
    books=book_lists(),
    prices=st.lists(PRICES, min_size=len(BILLED), max_size=len(BILLED)),
)
def test_every_amount_and_the_total_are_exact(books, prices):
    """The same as with fractions, whatever the order and the digits."""
    known = {
        (model, it): price
        for model in ("a", "m/2")
        for it, price in zip(BILLED, prices, strict=True)
    }

    result = preview(books, known, "usd")

    owed = sum(
        Fraction(known[model, it]) * (book.total - book.discarded) / 1_000_000
        for model, it, book in books
        if it in BILLED
    )
    assert owed == Fraction(result.total)
    assert abs(Fraction(result.rounded) - owed) <= Fraction(1, 200)
    assert not result.has_unpriced


@given(books=book_lists())
def test_each_state_has_its_part_of_the_quantity(books):
    lines = preview(books, {}, "usd").lines

    assert sum(
        book.total - book.discarded for _, it, book in books if it in BILLED
    ) == sum(line.quantity.total for line in lines)
    assert sum(book.accepted for _, it, book in books if it in BILLED) == sum(
        line.quantity.accepted for line in lines
    )


def test_lines_are_by_model_and_type_and_reasoning_is_a_part_of_the_output():
    book = Book(total=1)
    books = [
        ("b", TokenType.OUTPUT, book),
        ("a", TokenType.OUTPUT, book),
        ("a", TokenType.REASONING, book),
        ("a", TokenType.UNCACHED_INPUT, book),
        ("a", TokenType.CACHED_INPUT, Book()),
    ]

    lines = preview(books, {}, "usd").lines

    assert [
        ("a", TokenType.UNCACHED_INPUT),
        ("a", TokenType.OUTPUT),
        ("b", TokenType.OUTPUT),
    ] == [(line.model, line.token_type) for line in lines]


def test_what_has_no_price_is_shown_and_not_in_the_total():
    books = [("old", OUTPUT, Book(total=5)), ("new", OUTPUT, Book(total=2_000_000))]

    result = preview(books, {("new", OUTPUT): Decimal("0.40")}, "usd")

    assert [("new", Decimal("0.8")), ("old", None)] == [
        (line.model, line.amount) for line in result.lines
    ]
    assert (Decimal("0.8"), True) == (result.total, result.has_unpriced)


def test_a_price_of_nothing_is_a_price():
    result = preview([("a", OUTPUT, Book(total=5))], {("a", OUTPUT): Decimal(0)}, "usd")

    assert (Decimal(0), False) == (result.total, result.has_unpriced)


def test_only_the_total_is_rounded_once():
    """Three lines of half a cent are one cent and a half: two, not three or none."""
    price = Decimal("0.0050")
    books = [(model, OUTPUT, Book(total=1_000_000)) for model in ("a", "b", "c")]

    result = preview(books, {(it, OUTPUT): price for it in "abc"}, "usd")

    assert (Decimal("0.015"), Decimal("0.02")) == (result.total, result.rounded)


@pytest.mark.parametrize(
    ("total", "currency", "expected"),
    [
        ("0.005", "usd", "0.00"),
        ("0.015", "usd", "0.02"),
        ("0.0251", "usd", "0.03"),
        ("-0.025", "eur", "-0.02"),
        ("0.5", "jpy", "0"),
        ("1.5", "jpy", "2"),
        ("0.0005", "kwd", "0.000"),
        ("0.0015", "kwd", "0.002"),
    ],
)
def test_halves_go_to_even_of_the_smallest_unit(total, currency, expected):
    assert expected == str(to_coins(Decimal(total), currency))


def test_an_amount_keeps_all_its_digits():
    """The largest window by the largest price: more digits than the default context."""
    cost = amount(2**53 * 1000, Decimal("9999.9999"))

    assert Fraction(2**53 * 1000) * Fraction("9999.9999") / 1_000_000 == Fraction(cost)


def test_under_way_is_what_the_others_leave():
    book = Book(total=100, sealed=90, accepted=50, parked=20, discarded=5)

    quantity = Quantity.of(book)

    assert Quantity(accepted=50, under_way=15, parked=20, unsealed=10) == quantity
    assert 95 == quantity.total


@pytest.mark.parametrize(
    ("text", "first", "hours"),
    [("1970-01", 0, 744), ("2024-02", 474_096, 696), ("2026-12", 498_912, 744)],
)
def test_months_are_utc_and_end_where_the_next_begins(text, first, hours):
    month = Month.parse(text)

    assert (first, hours) == (month.first_hour, month.end_hour - month.first_hour)
    assert text == str(month)
    assert month == Month.of(month.first_hour * 3600)
    assert month == Month.of(month.end_hour * 3600 - 1)


@pytest.mark.parametrize("text", ["2026", "2026-13", "2026-11-01", "now", ""])
def test_what_is_no_month_is_refused(text):
    with pytest.raises(ValueError, match=r"time data|unconverted"):
        Month.parse(text)
