"""Overrides in an operator's words, there and back."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.adapters.redis.records import public_limits
from tollhouse.cli.overrides import (
    describe,
    parse_burst,
    parse_count,
    parse_money,
    parse_rate,
    parse_shadow,
)
from tollhouse.core.entitlement import AS_PLANNED, Override
from tollhouse.core.limits import MONEY


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (parse_count, "1", 1),
        (parse_count, "600_000", 600_000),
        (parse_count, str(2**53), 2**53),
        (parse_rate, "2_500_000_000", 2_500_000_000),
        (parse_rate, "none", "unlimited"),
        (parse_count, "none", "unlimited"),
        (parse_count, "plan", None),
        (parse_money, "12.50", 25 * MONEY // 2),
        (parse_money, "900000", 900_000 * MONEY),
        (parse_money, "0.0001", MONEY // 10_000),
        (parse_money, "none", "unlimited"),
        (parse_money, "plan", None),
        (parse_burst, "0.5", 0.5),
        (parse_burst, "3600", 3600.0),
        (parse_burst, "plan", None),
        (parse_shadow, "on", True),
        (parse_shadow, "off", False),
        (parse_shadow, "plan", None),
    ],
)
def test_read(parse, text, expected):
    """Numbers, and the words that stand for none and for the plan's."""
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parse_count, it) for it in ("", "0", "-1", "1.5", "1e3", "_1", "٣", "None")),
        *((parse_count, it) for it in (str(2**53 + 1), "9" * 30)),
        *((parse_rate, it) for it in ("0", "2500000001")),
        *((parse_money, it) for it in ("", "0", "0.0000", "-1", "1.", ".5", "1.00001")),
        *((parse_money, it) for it in ("900000.0001", "1e3", "nan", "1_000", "٣")),
        *(
            (parse_burst, it)
            for it in ("", "0", "3600.001", "none", "inf", "nan", "-1")
        ),
        *((parse_shadow, it) for it in ("", "true", "none", "ON")),
    ],
)
def test_refuse(parse, text):
    """Whatever else is written, with what could be."""
    with pytest.raises(ValueError, match="write"):
        parse(text)


@given(st.decimals("0.0001", 900_000, places=4))
def test_money_is_shown_as_it_was_set(amount):
    """To the last digit, with two places at least."""
    money = parse_money(f"{amount:f}")
    shown = public_limits(Override(money_per_day=money))["money_per_day"]

    assert isinstance(shown, str)
    assert Decimal(shown) == amount
    assert len(shown.partition(".")[2]) >= 2


def test_the_highest_rate_is_counted_exactly():
    """Also with the longest burst, in the grains of core.buckets."""
    rate, burst = parse_rate("2500000000"), parse_burst("3600")

    assert isinstance(rate, int)
    assert burst is not None
    assert rate * burst * 1000 < 2**53


def test_describe():
    """In the order and the words of the options."""
    override = Override(
        concurrent="unlimited",
        money_per_day=10 * MONEY,
        burst_seconds=5.0,
        shadow=False,
    )

    assert describe(override) == (
        "concurrent=none money_per_day=10.00 burst_seconds=5.0 shadow=off"
    )
    assert describe(AS_PLANNED) == ""
