"""Currencies as Stripe counts them: how many of its smallest units make one.

https://docs.stripe.com/currencies: two decimals unless listed. ISK and UGX have none in
fact and two at Stripe ("special cases" there, which go before its list); HUF and TWD
are without any only in payouts.
"""

from decimal import Decimal

_WHOLE = frozenset(
    {
        "bif",
        "clp",
        "djf",
        "gnf",
        "jpy",
        "kmf",
        "krw",
        "mga",
        "pyg",
        "rwf",
        "vnd",
        "vuv",
        "xaf",
        "xof",
        "xpf",
    }
)
_THOUSANDTHS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})


def smallest_units(currency: str) -> int:
    """How many of the smallest units one of the currency has: 1, 100 or 1000."""
    if currency in _WHOLE:
        return 1
    return 1000 if currency in _THOUSANDTHS else 100


def unit_amount(per_million: Decimal, currency: str) -> Decimal:
    """A price per million tokens as smallest units per token; exact.

    Stripe takes at most 12 decimal places; a price of four needs ten at most.
    """
    # By scaling, not by dividing: a division would be rounded to the context.
    return (per_million * smallest_units(currency)).scaleb(-6)


def plain(amount: Decimal) -> str:
    """An amount without exponent and without zeros at the end, as Stripe writes it."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
