"""Amounts as Stripe counts them, exactly."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.currency import plain, smallest_units, unit_amount

prices = st.decimals(min_value=0, max_value=10_000, places=4)
currencies = st.sampled_from(["usd", "jpy", "kwd", "isk", "ugx", "huf", "bhd"])


@pytest.mark.parametrize(
    ("currency", "units"),
    [
        ("usd", 100),
        ("eur", 100),
        ("jpy", 1),
        ("krw", 1),
        ("kwd", 1000),
        ("tnd", 1000),
        # Without decimals in fact, with two at Stripe.
        ("isk", 100),
        ("ugx", 100),
        # Without decimals in payouts only.
        ("huf", 100),
        ("twd", 100),
    ],
)
def test_smallest_units(currency, units):
    """https://docs.stripe.com/currencies, special cases before its list."""
    assert smallest_units(currency) == units


@pytest.mark.parametrize(
    ("per_million", "currency", "expected"),
    [
        ("0.10", "usd", "0.00001"),
        ("0.05", "usd", "0.000005"),
        ("0.0001", "usd", "0.00000001"),
        ("10000", "usd", "1"),
        ("15", "jpy", "0.000015"),
        ("0.0001", "jpy", "0.0000000001"),
        ("2.5", "kwd", "0.0025"),
        ("10000", "kwd", "10"),
        ("1000000", "usd", "100"),
    ],
)
def test_a_price_per_token(per_million, currency, expected):
    """As it goes over the wire: never with an exponent."""
    assert plain(unit_amount(Decimal(per_million), currency)) == expected


@given(prices, currencies)
def test_a_price_per_token_is_exact(per_million: Decimal, currency: str):
    """A million tokens cost what tollhouse.yaml says, to the last digit."""
    text = plain(unit_amount(per_million, currency))

    million = Fraction(text) * 1_000_000 / smallest_units(currency)
    assert million == Fraction(per_million)
    assert "E" not in text
    assert len(text.partition(".")[2]) <= 12
