"""An aggregator or an extproc of a run: `python -m tests.chaos.part {billing,extproc}`.

The real processes, but for this: an aggregator lives an hour ahead and may seal every
second; it says how many records it knew already; either can be given a mistake of
tests.chaos.controls.
"""

import argparse
import time

import structlog
from pydantic import Field

from tests.chaos.controls import CONTROLS, swap
from tollhouse.adapters.billing_metrics import BillingMetrics
from tollhouse.adapters.process import Process, run
from tollhouse.billing import __main__ as billing
from tollhouse.billing.config import Settings
from tollhouse.core.windows import SECONDS_PER_HOUR, Receipt
from tollhouse.extproc import __main__ as extproc

AHEAD_SECONDS = SECONDS_PER_HOUR + 5
"""Whatever is used now is of an hour that is over, for who lives so far ahead."""

_log = structlog.get_logger()


class Impatient(Settings):
    """The aggregator's settings without the bound on sealing."""

    seal_every_seconds: int = Field(3600, ge=1)


class Outspoken(BillingMetrics):
    """Says how many records came that were counted before."""

    def took(self, receipt: Receipt) -> None:
        """Count what became of a batch of records."""
        super().took(receipt)
        if receipt.duplicates:
            _log.info("records.recognised", count=receipt.duplicates)


async def aggregate(process: Process) -> None:
    """The aggregator, an hour ahead."""
    await billing.main(process, clock=lambda: time.time() + AHEAD_SECONDS)


def main() -> None:
    """Run the part that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.part", description="A part of a run."
    )
    parser.add_argument("part", choices=("billing", "extproc"))
    parser.add_argument("--control", choices=CONTROLS, help="the mistake it makes")
    options = parser.parse_args()
    if options.control is not None:
        CONTROLS[options.control].make()
    if options.part == "extproc":
        run("extproc", extproc.main)
    swap(billing, "Settings", Impatient)
    swap(billing, "BillingMetrics", Outspoken)
    run("billing", aggregate)


if __name__ == "__main__":
    main()
