"""Totals of the billing ledger, of both formats it may have been written in."""

from collections.abc import Sequence
from pathlib import Path

from tollhouse.adapters.billing_ledger import NAME, BillingLedger
from tollhouse.adapters.charge_lines import Format
from tollhouse.core.catalog import Catalog
from tollhouse.core.chunk import Answer, Attempt
from tollhouse.core.problems import Unavailable


class LedgerTotals:
    """A folder of billing ledger files, for `total` alone."""

    name = NAME
    most_at_once = 0

    def __init__(self, folder: Path) -> None:
        """Open the folder. Raises OSError."""
        self._ledgers = [
            BillingLedger(folder, it, deployment="", catalog=_none) for it in Format
        ]

    async def ship(
        self,
        attempts: Sequence[Attempt],  # noqa: ARG002 - the protocol's
    ) -> Sequence[Answer]:
        """Never: what is only read is not written to."""
        raise Unavailable("the billing ledger is open for reading", transient=False)

    async def total(self, customer: str, event_name: str, start: int, end: int) -> int:
        """Sum of the lines of a customer and meter. Raises Unavailable."""
        return sum(
            [await it.total(customer, event_name, start, end) for it in self._ledgers]
        )

    def close(self) -> None:
        """Let go of the files."""
        for it in self._ledgers:
            it.close()


def _none() -> Catalog:
    raise Unavailable("the billing ledger is open for reading", transient=False)
