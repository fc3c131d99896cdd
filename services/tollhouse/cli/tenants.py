"""`tollhouse tenants`: who is billed."""

import argparse
import sys

from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.adapters.redis.records import Tenant
from tollhouse.cli import keyring
from tollhouse.cli.console import Console
from tollhouse.cli.places import default_config

_CREATE = """\
Create a tenant. Creating one that exists on the same plan changes nothing and is no
error; changing its plan is refused.

example:
  tollhouse tenants create acme --plan demo
  tollhouse keys create --tenant acme
"""
_LIST = """\
List all tenants with their plan and state.

example:
  tollhouse tenants list --json
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "tenants",
        help="create and list tenants",
        description="A tenant is who is billed: it owns keys, and its plan limits them."
        " `tollhouse tenants COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    create = keyring.add_command(
        commands, "create", summary="create a tenant", description=_CREATE
    )
    create.add_argument("name", metavar="NAME", help="1 to 64 of a-z, 0-9 and -")
    create.add_argument(
        "--plan", required=True, help="a plan of tollhouse.yaml: the tenant's limits"
    )
    keyring.add_place_options(create)
    create.set_defaults(run=keyring.reporting(_create))

    list_ = keyring.add_command(
        commands, "list", summary="list tenants", description=_LIST
    )
    keyring.add_place_options(list_)
    list_.set_defaults(run=keyring.reporting(_list))


def warn_of_unknown_plan(plan: str) -> None:
    """Say so on stderr where tollhouse.yaml at hand has no such plan.

    Only a warning: the running gateway may have been started with another file.
    """
    path = default_config()
    try:
        plans = load(path).plans
    except ConfigurationError:
        return
    if plan not in plans:
        Console(sys.stderr).warning(
            f"plan {plan} is not in {path} (there: {', '.join(plans)}); without it "
            "every request is refused"
        )


def _create(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        tenant, is_new = ring.create_tenant(args.name, args.plan)
    warn_of_unknown_plan(args.plan)
    if args.json:
        keyring.print_json({**_to_json(tenant), "created": is_new})
        return
    what = "created" if is_new else "exists"
    Console().line(f"tenant {tenant.name} {what}, on plan {tenant.plan}")


def _list(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        tenants = ring.tenants()
    if args.json:
        keyring.print_json({"tenants": [_to_json(tenant) for tenant in tenants]})
        return
    keyring.print_table(
        ("TENANT", "PLAN", "STATE", "CREATED"),
        [
            (it.name, it.plan, it.state, keyring.when(it.created_at) or "")
            for it in tenants
        ],
    )


def _to_json(tenant: Tenant) -> dict[str, str | None]:
    return {
        "name": tenant.name,
        "plan": tenant.plan,
        "state": tenant.state,
        "created_at": keyring.when(tenant.created_at),
    }
