"""`tollhouse reconcile`: whether every token is where it should be, once."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tollhouse.adapters.redis.billing_books import BillingBooks
from tollhouse.adapters.redis.books import Books, Scope
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.customers import Customers
from tollhouse.adapters.redis.gateway_books import GatewayBooks, first_covered
from tollhouse.cli import keyring, reconcile_engine
from tollhouse.cli.both_redis import (
    add_redis_options,
    is_local,
    open_billing,
    open_gateway,
    reporting,
)
from tollhouse.cli.console import Console
from tollhouse.cli.reconcile_engine import EngineBooks, EngineFiles
from tollhouse.cli.reconcile_provider import Asked, Compared, ProviderComparison
from tollhouse.cli.reconcile_report import Report, show
from tollhouse.cli.stripe_account import add_stripe_options, open_stripe
from tollhouse.cli.unusable import UnusableError
from tollhouse.cli.usage import since
from tollhouse.core.chunk import PATIENCE_SECONDS
from tollhouse.core.identity import check_tenant
from tollhouse.core.reconciliation import Difference, RowBooks, Totals, differences
from tollhouse.core.windows import SECONDS_PER_HOUR

_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 2.0
_STRIPE = "stripe"

_DESCRIPTION = """\
Compare the books, per tenant, hour, model and token type:

  settled  = outbox + refused + dropped + windows   nothing lost, nothing doubled
  windows  = sealed + not sealed                    and that is in line to be sealed
  sealed   = accepted + under way + parked + discarded
  accepted = what the provider itself has           provider `ledger`: its files;
                                                    Stripe: with --provider
  billed   = what the engine generated              with the engine's log

Traffic may flow meanwhile: what moves is read again before it is called a difference.
The gateway keeps settled sums for 40 days; older rows are not covered by the first
line. What each finding means and what to do: docs/billing.md.

With OTEL_EXPORTER_OTLP_ENDPOINT set, and all tenants compared, what differs is exported
as metrics too (docs/telemetry.md).
"""
_EXAMPLES = """\
examples:
  tollhouse reconcile
  tollhouse reconcile --since 2d --json
  tollhouse reconcile --since 2d --provider --stripe-key-file stripe.key
  tollhouse reconcile --engine-log truth.jsonl --ledger ledger.jsonl.1 ledger.jsonl

Exit status: 0 balanced; 1 something differs; 2 it could not be found out: the command
line, a file or the machine is not right, a Redis or the provider does not answer.
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = keyring.add_command(
        subparsers,
        "reconcile",
        summary="compare all books: gateway, bills, engine",
        description=_DESCRIPTION,
    )
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "--since",
        type=since,
        metavar="WHEN",
        help="from the hour of this time on: 90m, 2h, 7d, 1w ago, or an ISO date or"
        " time (default: 40 days ago, all that settled sums cover)",
    )
    parser.add_argument("--tenant", metavar="NAME", help="only this one (default: all)")
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="for how long what differs is read again (default: %(default)s)",
    )
    parser.add_argument("--all", action="store_true", help="show rows that balance too")
    parser.add_argument(
        "--provider",
        action="store_true",
        help="ask every provider that chunks were sent to",
    )
    parser.add_argument(
        "--billing-ledger",
        type=Path,
        metavar="DIR",
        help="files of provider `ledger` (default: DIR/billing of the state directory)",
    )
    add_stripe_options(parser, required=False)
    parser.add_argument(
        "--engine-log",
        type=Path,
        metavar="FILE",
        help="what the local engine generated (default: truth.jsonl there)",
    )
    parser.add_argument(
        "--ledger",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="Envoy's ledger of that time, oldest first (default: those there)",
    )
    add_redis_options(parser, both=True)
    parser.set_defaults(run=reporting(_reconcile, unavailable=keyring.EXIT_UNUSABLE))


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86_400:  # noqa: PLR2004 - a day; also refuses nan
        raise ValueError(text)
    return seconds


async def _reconcile(args: argparse.Namespace) -> int:
    if args.tenant is not None:
        check_tenant(args.tenant)
    files = reconcile_engine.find_files(args)
    async with (
        open_gateway(args) as gateway,
        open_billing(args) as billing,
        _providers(args) as asked,
    ):
        comparison = _Comparison(args, gateway, billing, asked)
        report = await comparison.run(files)
    show(report, as_json=args.json, everything=args.all)
    if args.tenant is None:  # of one tenant alone it would hide the others' faults
        # Not at the top: OpenTelemetry takes 0.2 s to import.
        from tollhouse.adapters.reconcile_metrics import (  # noqa: PLC0415
            export_reconciled,
        )

        export_reconciled(report.sums)
    for failure in report.failures:
        Console(sys.stderr).error(f"the provider does not say: {failure}")
    if args.provider and report.unasked:
        raise UnusableError(
            f"chunks were sent to {', '.join(report.unasked)}: name its"
            " --stripe-key-file or --billing-ledger"
        )
    if not report.is_balanced:
        return keyring.EXIT_FAILED
    return keyring.EXIT_UNUSABLE if report.failures else keyring.EXIT_OK


class _Comparison:
    """The readings of one run; repeated for what differs until the time is over."""

    def __init__(
        self,
        args: argparse.Namespace,
        gateway: Redis,
        billing: Redis,
        asked: dict[str, Asked],
    ) -> None:
        now = time.time()
        first: datetime | None = args.since
        from_hour = first_covered(now)
        if first is not None:
            from_hour = int(first.timestamp()) // SECONDS_PER_HOUR
        self._scope = Scope(args.tenant, from_hour)
        self._asked = asked
        self._billing = BillingBooks(billing)
        self._gateway = GatewayBooks(gateway)
        self._books = Books(self._gateway, self._billing)
        self._customers = Customers(billing)
        self._wait_seconds: float = args.wait

    async def run(self, files: EngineFiles | None) -> Report:
        """Compare everything. Raises Unavailable, UnusableError."""
        rows, found = await self._rows()
        compared = await self._provider(rows)
        engine = None if files is None else await self._engine(files)
        totals = Totals()
        for row in rows:
            totals.add(row)
        return Report(
            rows=rows,
            totals=totals,
            differences=sorted(
                [*found, *compared.differences],
                key=lambda it: (it.place, it.quantity, it.finding),
            ),
            engine=engine,
            provider_days=compared.checked,
            unasked=sorted(compared.unasked),
            failures=compared.failures,
        )

    async def _rows(self) -> tuple[list[RowBooks], list[Difference]]:
        read = await self._books.read(self._scope, time.time())
        rows = {it.place: it for it in await self._linked(read)}
        found = {place: differences(row, time.time()) for place, row in rows.items()}
        async for _ in self._tries():
            suspects = [it for it in rows if found[it] or rows[it].is_moving]
            if not suspects:
                break
            again = await self._books.read_again(suspects, time.time())
            for row in await self._linked(again):
                rows[row.place] = row
                found[row.place] = differences(row, time.time())
        return list(rows.values()), [it for its in found.values() for it in its]

    async def _linked(self, rows: Iterable[RowBooks]) -> list[RowBooks]:
        """Note whose tenants are no customers, where that is what sealing waits for."""
        listed = list(rows)
        if _STRIPE not in self._asked:
            return listed
        linked = await self._customers.of({it.place.tenant for it in listed})
        return [replace(it, has_account=it.place.tenant in linked) for it in listed]

    async def _provider(self, rows: Sequence[RowBooks]) -> Compared:
        comparison = ProviderComparison(
            self._billing, self._asked, self._scope.from_hour
        )
        compared = await comparison.compare(rows)
        async for _ in self._tries():
            if not compared.differences and not compared.failures:
                break
            fresh = await self._books.read(self._scope, time.time())
            compared = await comparison.compare(fresh)
        return compared

    async def _engine(self, files: EngineFiles) -> EngineBooks:
        books = files, self._gateway, self._billing
        engine = await reconcile_engine.compare(*books)
        async for _ in self._tries():
            if not engine.mismatches:
                break
            engine = await reconcile_engine.compare(*books)
        return engine

    async def _tries(self) -> AsyncIterator[None]:
        """One turn after each pause, until the time is over."""
        pause, deadline = _PAUSE_SECONDS, time.monotonic() + self._wait_seconds
        while time.monotonic() + pause <= deadline:
            await asyncio.sleep(pause)
            yield
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


@asynccontextmanager
async def _providers(args: argparse.Namespace) -> AsyncIterator[dict[str, Asked]]:
    """Those the options lead to, by name. Raises UnusableError, ValueError."""
    async with AsyncExitStack() as stack:
        asked: dict[str, Asked] = {}
        folder: Path | None = args.billing_ledger
        if folder is None and is_local(args):
            folder = args.state_dir / "billing"
            folder = folder if folder.is_dir() else None
        if folder is not None:
            # Not at the top: it brings the catalog's code along.
            from tollhouse.adapters.ledger_totals import LedgerTotals  # noqa: PLC0415

            if not folder.is_dir():
                raise UnusableError(f"--billing-ledger: {folder} is no directory")
            try:
                totals = LedgerTotals(folder)
            except OSError as error:
                raise UnusableError(f"{folder}: {error.strerror}") from error
            stack.callback(totals.close)
            asked[totals.name] = Asked(totals)
        if args.provider and args.stripe_key_file is not None:
            client = await stack.enter_async_context(open_stripe(args))
            from tollhouse.adapters.stripe.meter_events import (  # noqa: PLC0415
                MeterEvents,
            )

            asked[_STRIPE] = Asked(MeterEvents(client), PATIENCE_SECONDS)
        elif args.stripe_key_file is not None:
            raise UnusableError("--stripe-key-file is for --provider: name both")
        yield asked
