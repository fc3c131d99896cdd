"""`tollhouse billing customers`: who of the tenants is which Stripe customer."""

import argparse

from tollhouse.adapters.redis.customers import CustomerError, Customers
from tollhouse.cli import keyring
from tollhouse.cli.billing_place import (
    add_billing_options,
    open_billing_redis,
    reporting,
)
from tollhouse.cli.console import Console
from tollhouse.cli.stripe_account import add_stripe_options, open_stripe
from tollhouse.core.identity import check_tenant

_LINK = """\
Say which Stripe customer a tenant is: its usage from now on, and what was not shipped
yet, goes there. A customer has one tenant and a tenant one customer. With
--stripe-key-file the customer is looked up first.

examples:
  tollhouse billing customers link acme cus_Q4x8T2 --stripe-key-file stripe.key
  tollhouse billing customers link acme cus_Q4x8T2

Exit status: 0 it is linked; 1 either has another, or there is no such customer; 2 the
command line, a file or the machine is not right.
"""
_CREATE = """\
Create a Stripe customer for a tenant and link it. A tenant that has one keeps it.

examples:
  tollhouse billing customers create acme --stripe-key-file stripe.key
  tollhouse billing customers create acme --email pay@acme.example \\
      --stripe-key-file stripe.key

Exit status: 0 it has one; 1 Stripe or Redis did not do it; 2 the command line, a file
or the machine is not right.
"""
_UNLINK = """\
Take a tenant's customer away. Nothing changes at Stripe; what is on its way already
still goes there, usage after that waits for another customer.

A customer belongs to one tenant for ever. Link it to another within 35 days, and what
it has of the first is taken for the other's when chunks are looked up at Stripe: create
a new customer instead.

example:
  tollhouse billing customers unlink acme

Exit status: 0 it has none now; 1 Redis did not do it; 2 the command line, a file or the
machine is not right.
"""
_LIST = """\
List tenants that have a customer.

example:
  tollhouse billing customers list --json

Exit status: 0 done; 1 Redis did not answer; 2 the command line, a file or the machine
is not right.
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "customers",
        help="which Stripe customer a tenant is",
        description="Usage of a tenant is billed once it is a customer at Stripe."
        " `tollhouse billing customers COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    link = keyring.add_command(
        commands, "link", summary="say which customer a tenant is", description=_LINK
    )
    link.add_argument("tenant", metavar="TENANT", help="the tenant")
    link.add_argument("customer", metavar="CUSTOMER", help="id of a Stripe customer")
    add_stripe_options(link, required=False)
    add_billing_options(link)
    link.set_defaults(run=reporting(_link))

    create = keyring.add_command(
        commands, "create", summary="create a tenant's customer", description=_CREATE
    )
    create.add_argument("tenant", metavar="TENANT", help="the tenant")
    create.add_argument("--email", default="", help="where Stripe sends invoices")
    add_stripe_options(create, required=True)
    add_billing_options(create)
    create.set_defaults(run=reporting(_create))

    unlink = keyring.add_command(
        commands, "unlink", summary="take it away again", description=_UNLINK
    )
    unlink.add_argument("tenant", metavar="TENANT", help="the tenant")
    add_billing_options(unlink)
    unlink.set_defaults(run=reporting(_unlink))

    list_ = keyring.add_command(
        commands, "list", summary="list who has one", description=_LIST
    )
    add_billing_options(list_)
    list_.set_defaults(run=reporting(_list))


async def _link(args: argparse.Namespace) -> None:
    check_tenant(args.tenant)
    if not args.customer.startswith("cus_"):
        raise ValueError(
            f"customer {args.customer!r}: ids of customers start with cus_"
        )
    if args.stripe_key_file is not None:
        await _check_customer(args)
    async with open_billing_redis(args) as redis:
        is_new = await Customers(redis).link(args.tenant, args.customer)
    _print_link(args, args.customer, "linked" if is_new else "was linked")


async def _check_customer(args: argparse.Namespace) -> None:
    async with open_stripe(args) as client:
        from tollhouse.adapters.stripe.customers import (  # noqa: PLC0415
            Customers as StripeCustomers,
        )

        if not await StripeCustomers(client).exists(args.customer):
            raise CustomerError(f"Stripe has no customer {args.customer}")


async def _create(args: argparse.Namespace) -> None:
    check_tenant(args.tenant)
    async with open_billing_redis(args) as redis, open_stripe(args) as client:
        from tollhouse.adapters.stripe.customers import (  # noqa: PLC0415
            Customers as StripeCustomers,
        )

        customers = Customers(redis)
        there = (await customers.of([args.tenant])).get(args.tenant)
        if there is not None:
            _print_link(args, there, "was linked")
            return
        customer = await StripeCustomers(client).create(args.tenant, args.email)
        await customers.link(args.tenant, customer)
    _print_link(args, customer, "created and linked")


async def _unlink(args: argparse.Namespace) -> None:
    check_tenant(args.tenant)
    async with open_billing_redis(args) as redis:
        customer = await Customers(redis).unlink(args.tenant)
    if args.json:
        keyring.print_json({"tenant": args.tenant, "was": customer})
    elif customer is None:
        Console().line(f"tenant {args.tenant} has no customer")
    else:
        Console().line(f"tenant {args.tenant} is customer {customer} no more")
        Console().line(
            f"never link {customer} to another tenant: for 35 days what it has is taken"
            " for that one's; create a new customer"
        )


async def _list(args: argparse.Namespace) -> None:
    async with open_billing_redis(args) as redis:
        links = await Customers(redis).all()
    if args.json:
        keyring.print_json(
            {
                "customers": [
                    {"tenant": tenant, "customer": customer}
                    for tenant, customer in links.items()
                ]
            }
        )
        return
    keyring.print_table(("TENANT", "CUSTOMER"), list(links.items()))


def _print_link(args: argparse.Namespace, customer: str, what: str) -> None:
    if args.json:
        keyring.print_json(
            {"tenant": args.tenant, "customer": customer, "new": what != "was linked"}
        )
    else:
        Console().line(f"tenant {args.tenant} {what}: customer {customer}")
