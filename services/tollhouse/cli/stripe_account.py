"""What commands that talk to Stripe share: its options, and a client of it."""

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tollhouse.cli.unusable import UnusableError

if TYPE_CHECKING:
    from tollhouse.adapters.stripe.client import Client


def add_stripe_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add what says which Stripe account is meant."""
    parser.add_argument(
        "--stripe-key-file",
        type=Path,
        required=required,
        metavar="FILE",
        help="file that holds an API key of the account and nothing else",
    )
    parser.add_argument(
        "--stripe-url",
        metavar="URL",
        default=os.environ.get("TOLLHOUSE_STRIPE_URL"),
        help="another server than Stripe's, for tests (default: TOLLHOUSE_STRIPE_URL,"
        " else Stripe)",
    )


@asynccontextmanager
async def open_stripe(args: argparse.Namespace) -> AsyncIterator["Client"]:
    """The account the options mean. Raises UnusableError, ValueError."""
    try:
        # Not at the top: it takes most of a second, and may not be installed.
        from tollhouse.adapters.stripe.client import Client  # noqa: PLC0415
        from tollhouse.adapters.stripe.secret import SecretError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UnusableError(
            f"{error.name} is missing; pip install 'tollhouse[stripe]'"
        ) from error
    try:
        client = Client.open(args.stripe_key_file, url=args.stripe_url)
    except SecretError as error:
        raise UnusableError(str(error)) from error
    try:
        yield client
    finally:
        await client.close()
