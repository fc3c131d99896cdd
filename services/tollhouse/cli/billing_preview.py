"""`tollhouse billing preview`: what a tenant's month costs by the catalog's prices."""

import argparse
import time
from decimal import Decimal
from pathlib import Path

from tollhouse.adapters.configuration import load
from tollhouse.adapters.redis.billing_books import BillingBooks
from tollhouse.cli import keyring, places
from tollhouse.cli.both_redis import add_redis_options, open_billing, reporting
from tollhouse.cli.console import Console
from tollhouse.core.book import Book
from tollhouse.core.currency import plain
from tollhouse.core.identity import check_tenant
from tollhouse.core.invoice import Line, Month, Preview, preview
from tollhouse.core.meter import meters
from tollhouse.core.windows import TokenType

_NO_PRICE = "no price"
_NOTES = (
    "Prices are those of the catalog now. The month is UTC's: windows are UTC hours.",
    "Free tiers, minimums, taxes and discounts are Stripe's: they are not in here.",
)
_DESCRIPTION = """\
Show what a tenant's usage of a month costs, by model and billed token type: quantity,
price per million tokens, amount, and the exact total, which alone is rounded (half to
even, to the currency's smallest unit). Reasoning tokens are a part of the output.

  WITH PROVIDER  the provider has it: only this is in Stripe's own preview
  UNDER WAY      in chunks that are being sent
  PARKED         waits for an operator: see `tollhouse billing parked list`
  NOT SEALED     not in a chunk yet: this hour's, late records, a tenant no customer

Prices are those of the catalog now, also for what was used before they changed. Months
are in UTC, as windows are UTC hours; a customer's billing period at Stripe may begin on
another day. Free tiers, minimums, taxes and discounts are Stripe's job and not in here.
"""
_EXAMPLES = """\
examples:
  tollhouse billing preview --tenant acme
  tollhouse billing preview --tenant acme --month 2026-11 --json

Exit status: 0 done; 1 a model has no price any more, so that the total is too low, or
Redis did not answer; 2 the command line, a file or the machine is not right.
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = keyring.add_command(
        subparsers,
        "preview",
        summary="what a tenant's month costs so far",
        description=_DESCRIPTION,
    )
    parser.epilog = _EXAMPLES
    parser.add_argument("--tenant", required=True, metavar="NAME", help="whose usage")
    parser.add_argument(
        "--month",
        type=_month,
        metavar="YYYY-MM",
        help="a month in UTC (default: this one)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="models and prices (default: ./tollhouse.yaml, else the repository's)",
    )
    add_redis_options(parser, both=False)
    parser.set_defaults(run=reporting(_preview))


def _month(text: str) -> Month:
    try:
        return Month.parse(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no month; write 2026-11"
        ) from None


async def _preview(args: argparse.Namespace) -> int:
    check_tenant(args.tenant)
    month: Month = args.month or Month.of(time.time())
    catalog = load(args.config or places.default_config()).catalog()
    prices = {(it.model, it.token_type): it.price for it in meters(catalog)}
    async with open_billing(args) as redis:
        reader = BillingBooks(redis)
        found = await reader.places(args.tenant, month.first_hour, month.end_hour)
        rows = await reader.rows(found)
    books: list[tuple[str, TokenType, Book]] = [
        (place.model, token_type, book)
        for place, row in zip(found, rows, strict=True)
        for token_type, book in row.books.items()
    ]
    result = preview(books, prices, catalog.currency)
    if args.json:
        keyring.print_json(_to_json(args.tenant, month, result))
    else:
        _print(args.tenant, month, result)
    return keyring.EXIT_FAILED if result.has_unpriced else keyring.EXIT_OK


def _print(tenant: str, month: Month, result: Preview) -> None:
    console, currency = Console(), result.currency.upper()
    console.line(f"tenant {tenant}, {month} (UTC), amounts in {currency}")
    console.line()
    header = ("MODEL", "TOKEN TYPE", "QUANTITY", "PRICE/MILLION", "AMOUNT")
    states = ("WITH PROVIDER", "UNDER WAY", "PARKED", "NOT SEALED")
    table = [(*header, *states), *map(_cells, result.lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        aligned = [
            cell.ljust(width) if at < 2 else cell.rjust(width)  # noqa: PLR2004
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        console.line("  ".join(aligned).rstrip())
    console.line()
    console.line(f"total    {plain(result.total)} {currency}")
    console.line(f"rounded  {result.rounded} {currency}")
    if result.has_unpriced:
        models = sorted({it.model for it in result.lines if it.price is None})
        console.line(
            f"{_NO_PRICE}: {', '.join(models)} is not in the catalog; the total is"
            " without it"
        )
    console.line()
    for note in _NOTES:
        console.line(note)


def _cells(line: Line) -> tuple[str, ...]:
    quantity = line.quantity
    return (
        line.model,
        line.token_type.value,
        f"{quantity.total:,}",
        _text(line.price) or _NO_PRICE,
        _text(line.amount) or _NO_PRICE,
        f"{quantity.accepted:,}",
        f"{quantity.under_way:,}",
        f"{quantity.parked:,}",
        f"{quantity.unsealed:,}",
    )


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else plain(amount)


def _to_json(tenant: str, month: Month, result: Preview) -> dict[str, object]:
    return {
        "tenant": tenant,
        "month": str(month),
        "currency": result.currency,
        "lines": [
            {
                "model": line.model,
                "token_type": line.token_type.value,
                "quantity": line.quantity.total,
                "with_provider": line.quantity.accepted,
                "under_way": line.quantity.under_way,
                "parked": line.quantity.parked,
                "not_sealed": line.quantity.unsealed,
                "price_per_million": _text(line.price),
                "amount": _text(line.amount),
            }
            for line in result.lines
        ],
        "total": plain(result.total),
        "total_rounded": str(result.rounded),
        "has_unpriced": result.has_unpriced,
        "notes": list(_NOTES),
    }
