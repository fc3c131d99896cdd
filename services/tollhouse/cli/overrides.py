"""Overrides of limits as an operator writes and reads them."""

import argparse
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Final

import msgspec

from tollhouse.adapters.redis.records import public_limits
from tollhouse.core.entitlement import Amount, Override
from tollhouse.core.limits import (
    LONGEST_BURST_SECONDS,
    MONEY,
    MOST,
    MOST_MONEY,
    MOST_PER_MINUTE,
)

NONE: Final = "none"
"""No such limit."""
PLAN: Final = "plan"
"""What the plan says."""

_COUNT = re.compile(r"[0-9][0-9_]{0,20}")
_MONEY = re.compile(r"[0-9]{1,6}(\.[0-9]{1,4})?")
_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")
_SHADOW = {"on": True, "off": False, PLAN: None}

_Value = Amount | float | bool


def parse_rate(text: str) -> Amount:
    """Read a number of requests or units per minute. Raises ValueError."""
    return _parse_whole(text, MOST_PER_MINUTE)


def parse_count(text: str) -> Amount:
    """Read a number of units or exchanges. Raises ValueError."""
    return _parse_whole(text, MOST)


def _parse_whole(text: str, most: int) -> Amount:
    if text in (NONE, PLAN):
        return "unlimited" if text == NONE else None
    if not _COUNT.fullmatch(text) or not 1 <= int(text.replace("_", "")) <= most:
        raise ValueError(
            f"write a whole number from 1 to {most}, none (no such limit) or plan"
        )
    return int(text.replace("_", ""))


def parse_money(text: str) -> Amount:
    """Read an amount of the currency into `MONEY`. Raises ValueError."""
    if text in (NONE, PLAN):
        return "unlimited" if text == NONE else None
    if not _MONEY.fullmatch(text) or not 0 < Decimal(text) <= MOST_MONEY:
        raise ValueError(
            f"write an amount such as 12.50, above 0, up to {MOST_MONEY}, with 4 "
            "decimal places at most; none (no such limit) or plan"
        )
    return int(Decimal(text) * MONEY)


def parse_burst(text: str) -> float | None:
    """Read seconds. Raises ValueError."""
    if text == PLAN:
        return None
    if not _SECONDS.fullmatch(text) or not 0 < float(text) <= LONGEST_BURST_SECONDS:
        raise ValueError(
            f"write seconds above 0, up to {LONGEST_BURST_SECONDS:g}, or plan"
        )
    return float(text)


def parse_shadow(text: str) -> bool | None:
    """Read on, off or plan. Raises ValueError."""
    if text not in _SHADOW:
        raise ValueError("write on, off or plan")
    return _SHADOW[text]


_FIELDS: Final[dict[str, tuple[Callable[[str], _Value], str, str]]] = {
    "requests_per_minute": (parse_rate, "N", "requests per minute"),
    "units_per_minute": (parse_rate, "N", "tokens times weights, per minute"),
    "concurrent": (parse_count, "N", "exchanges at once"),
    "units_per_day": (parse_count, "N", "units per day of the tenant's time zone"),
    "units_per_month": (parse_count, "N", "units per calendar month"),
    "money_per_day": (parse_money, "AMOUNT", "tokens times prices, per day"),
    "money_per_month": (parse_money, "AMOUNT", "the same per calendar month"),
    "burst_seconds": (parse_burst, "S", "of the per-minute limits, usable at once"),
    "shadow": (parse_shadow, "on|off", "count these limits, never refuse by them"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field."""
    group = parser.add_argument_group("limits")
    for field, (parse, metavar, what) in _FIELDS.items():
        or_none = "" if parse in (parse_burst, parse_shadow) else "|none"
        group.add_argument(
            _option(field), metavar=f"{metavar}{or_none}|plan", help=what
        )


def change_of(args: argparse.Namespace) -> Callable[[Override], Override]:
    """Make what the options ask for; fields not named stay. Raises ValueError."""
    changes: dict[str, _Value] = {}
    for field, (parse, _, _) in _FIELDS.items():
        text = getattr(args, field)
        if text is None:
            continue
        try:
            changes[field] = parse(text)
        except ValueError as error:
            raise ValueError(f"{_option(field)} {text!r}: {error}") from None
    if not changes:
        options = ", ".join(map(_option, _FIELDS))
        raise ValueError(f"nothing to set: give at least one of {options}")
    return lambda old: msgspec.structs.replace(old, **changes)


def describe(override: Override) -> str:
    """The same in one line."""
    words = {True: "on", False: "off"}
    parts = []
    for field, value in public_limits(override).items():
        shown = words[value] if isinstance(value, bool) else value
        parts.append(f"{field}={shown}")
    return " ".join(parts)


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"
