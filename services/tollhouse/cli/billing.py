"""`tollhouse billing`: what has to be right between usage and invoices."""

import argparse

from tollhouse.cli import (
    billing_customers,
    billing_parked,
    billing_preview,
    billing_setup,
)

MODULES = (billing_setup, billing_customers, billing_preview, billing_parked)
"""Each adds its command by `add_parser`."""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "billing",
        help="meters, prices and customers at Stripe, and what waits for them",
        description="Usage is billed through Stripe: these commands prepare it there"
        " and look after what is on its way."
        " `tollhouse billing COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in MODULES:
        module.add_parser(commands)
