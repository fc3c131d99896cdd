"""`tollhouse billing setup`: the meters, products and prices of tollhouse.yaml."""

import argparse
import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import assert_never

from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.cli import keyring
from tollhouse.cli.console import Console
from tollhouse.cli.places import default_config
from tollhouse.cli.stripe_account import add_stripe_options, open_stripe
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.catalog import Catalog
from tollhouse.core.currency import plain
from tollhouse.core.meter import DEPLOYMENT, DEPLOYMENT_NAME, meters
from tollhouse.core.meter_plan import (
    Action,
    Conflict,
    CreateMeter,
    CreatePrice,
    CreateProduct,
)
from tollhouse.core.problems import Unavailable

_DESCRIPTION = """\
Compare tollhouse.yaml with a Stripe account: each billed token type of a model needs a
meter there and, unless it is free, a monthly metered price; each model a product. Shows
what is missing; with --apply makes it. What is there already stays, so running it again
is safe, also while another one runs.

Gateways that share an account are told apart by their deployment, billing's setting
TOLLHOUSE_DEPLOYMENT: names of meters, products and lookup keys begin with it.

A changed price becomes a new price at Stripe, which takes over the lookup key. Running
subscriptions keep the old price until somebody moves them.
"""
_EXAMPLES = """\
examples:
  tollhouse billing setup --stripe-key-file stripe.key
  tollhouse billing setup --stripe-key-file stripe.key --apply
  tollhouse billing setup --stripe-key-file stripe.key --json
  tollhouse billing setup --stripe-key-file stripe.key --deployment eu --apply

Exit status: 0 all is there, or would be with --apply; 1 conflicts, or Stripe did not do
it; 2 the command line, a file or the machine is not right.
"""

_GRACE = (
    "Stripe settings > Billing > Invoices: set the invoice finalization grace period to"
    " 24 hours or more; with the default of 1 hour late usage misses its invoice"
)
"""https://docs.stripe.com/billing/subscriptions/usage-based/configure-grace-period"""

_KINDS: Mapping[type[Action], str] = {
    CreateMeter: "create meter",
    CreateProduct: "create product",
    CreatePrice: "create price",
    Conflict: "conflict",
}


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "setup",
        help="make meters and prices at Stripe from tollhouse.yaml",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="models and prices (default: ./tollhouse.yaml, else the repository's)",
    )
    parser.add_argument(
        "--deployment",
        type=_deployment,
        default=DEPLOYMENT,
        metavar="NAME",
        help=f"TOLLHOUSE_DEPLOYMENT of the billing process (default: {DEPLOYMENT})",
    )
    parser.add_argument(
        "--apply", action="store_true", help="do it (default: only show it)"
    )
    add_stripe_options(parser, required=True)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def _deployment(text: str) -> str:
    if not re.fullmatch(DEPLOYMENT_NAME, text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no deployment: up to 63 of a-z, 0-9 and -, not first a -"
        )
    return text


def run(args: argparse.Namespace) -> int:
    """Show or do what is missing."""
    errors = Console(sys.stderr)
    try:
        catalog = load(args.config or default_config()).catalog()
        return asyncio.run(_set_up(args, catalog))
    except ConfigurationError as error:
        for line in str(error).splitlines():
            errors.error(line)
        return keyring.EXIT_UNUSABLE
    except (UnusableError, ValueError) as error:
        errors.error(str(error))
        return keyring.EXIT_UNUSABLE
    except Unavailable as error:
        errors.error(str(error))
        return keyring.EXIT_FAILED


async def _set_up(args: argparse.Namespace, catalog: Catalog) -> int:
    async with open_stripe(args) as client:
        from tollhouse.adapters.stripe.setup import Setup, SetupError  # noqa: PLC0415

        wanted = meters(catalog, args.deployment)
        setup = Setup(client, wanted, catalog.currency)
        actions = await setup.plan()
        conflicts = [it for it in actions if isinstance(it, Conflict)]
        if not args.apply or conflicts or not actions:
            _show(args, actions, applied=False)
            return keyring.EXIT_FAILED if conflicts else keyring.EXIT_OK
        done: list[Action] = []

        def report(action: Action) -> None:
            done.append(action)
            if not args.json:
                name, what = _cells(action)[1:]
                Console().step(_KINDS[type(action)], f"{name}  {what}".rstrip())

        try:
            await setup.apply(report)
        except SetupError as error:
            Console(sys.stderr).error(str(error))
            return keyring.EXIT_FAILED
        finally:
            if args.json:
                _show(args, done, applied=True)
    if not args.json:
        Console().line(f"done: {len(done)} created")
        Console().line(_GRACE)
    return keyring.EXIT_OK


def _show(
    args: argparse.Namespace, actions: Sequence[Action], *, applied: bool
) -> None:
    if args.json:
        keyring.print_json(
            {"applied": applied, "actions": [to_json(it) for it in actions]}
        )
        return
    if not actions:
        Console().line("nothing to do: Stripe has all meters, products and prices")
        Console().line(_GRACE)
        return
    keyring.print_table(("ACTION", "NAME", "WHAT"), [_cells(it) for it in actions])
    if any(isinstance(it, Conflict) for it in actions):
        Console(sys.stderr).error("a person has to resolve the conflicts first")
    else:
        Console().line(f"{len(actions)} to do; --apply does it")
        Console().line(_GRACE)


def to_json(action: Action) -> dict[str, object]:
    """One action, with amounts as text: they are exact."""
    facts = {
        name: plain(value) if name == "amount" else value
        for name, value in asdict(action).items()
    }
    return {"action": _KINDS[type(action)].replace(" ", "_"), **facts}


def _cells(action: Action) -> tuple[str, str, str]:
    kind = _KINDS[type(action)]
    match action:
        case CreateMeter():
            return kind, action.event_name, "sums tokens"
        case CreateProduct():
            return kind, action.id, f"model {action.model}"
        case CreatePrice():
            amount = f"{plain(action.amount)} smallest units of {action.currency}"
            what = f"{amount} per token"
            if action.replaces:
                what += (
                    f"; takes the lookup key from {action.replaces} ({action.because}),"
                    " which running subscriptions keep"
                )
            return kind, action.lookup_key, what
        case Conflict():
            return kind, action.name, action.reason
        case unreachable:
            assert_never(unreachable)
