"""Totals of the billing ledger, for whoever only reads it."""

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
        # Which format it would write is all the same: both are read.
        self._ledger = BillingLedger(
            folder, Format.CLOUDEVENTS, deployment="", catalog=_none
        )

    async def ship(
        self,
        attempts: Sequence[Attempt],  # noqa: ARG002 - the protocol's
    ) -> Sequence[Answer]:
        """Never: what is only read is not written to."""
        raise Unavailable("the billing ledger is open for reading", transient=False)

    async def total(self, customer: str, event_name: str, start: int, end: int) -> int:
        """Sum of the lines of a customer and meter. Raises Unavailable."""
        return await self._ledger.total(customer, event_name, start, end)

    def close(self) -> None:
        """Let go of the files."""
        self._ledger.close()


def _none() -> Catalog:
    raise Unavailable("the billing ledger is open for reading", transient=False)
