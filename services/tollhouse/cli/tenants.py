"""`tollhouse tenants`: who is billed."""

import argparse
import sys

from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.adapters.redis.records import Tenant
from tollhouse.cli import keyring
from tollhouse.cli.console import Console
from tollhouse.cli.places import default_config
from tollhouse.core.entitlement import UTC

_CREATE = """\
Create a tenant. Creating one that exists as asked for changes nothing and is no error;
changing its plan or time zone is refused (`tollhouse tenants set` does that).

examples:
  tollhouse tenants create acme --plan demo
  tollhouse tenants create acme --plan demo --time-zone Europe/Berlin
  tollhouse keys create --tenant acme
"""
_SET = """\
Put a tenant on another plan, or its budgets into another time zone. Requests follow
within two seconds; what the running day and month have used stays used.

examples:
  tollhouse tenants set acme --plan metered
  tollhouse tenants set acme --time-zone America/New_York
"""
_LIST = """\
List all tenants with their plan, state and time zone.

example:
  tollhouse tenants list --json
"""

_ZONE = "whose days and months its budgets follow, as Europe/Berlin"


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "tenants",
        help="create, change and list tenants",
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
    create.add_argument("--time-zone", metavar="ZONE", help=f"{_ZONE} (default: UTC)")
    keyring.add_place_options(create)
    create.set_defaults(run=keyring.reporting(_create))

    set_ = keyring.add_command(
        commands, "set", summary="change a tenant", description=_SET
    )
    set_.add_argument("name", metavar="NAME", help="the tenant")
    set_.add_argument("--plan", help="another plan of tollhouse.yaml")
    set_.add_argument("--time-zone", metavar="ZONE", help=_ZONE)
    keyring.add_place_options(set_)
    set_.set_defaults(run=keyring.reporting(_set))

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
        tenant, is_new = ring.create_tenant(args.name, args.plan, args.time_zone)
    warn_of_unknown_plan(args.plan)
    if args.json:
        keyring.print_json({**_to_json(tenant), "created": is_new})
        return
    what = "created" if is_new else "exists"
    Console().line(f"tenant {tenant.name} {what}, {_terms(tenant)}")


def _set(args: argparse.Namespace) -> None:
    if args.plan is None and args.time_zone is None:
        raise ValueError("nothing to change: give --plan, --time-zone or both")
    with keyring.open_keyring(args) as ring:
        tenant = ring.change_tenant(args.name, plan=args.plan, time_zone=args.time_zone)
    if args.plan is not None:
        warn_of_unknown_plan(args.plan)
    if args.json:
        keyring.print_json(_to_json(tenant))
        return
    Console().line(f"tenant {tenant.name} is {_terms(tenant)}")


def _list(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        tenants = ring.tenants()
    if args.json:
        keyring.print_json({"tenants": [_to_json(tenant) for tenant in tenants]})
        return
    keyring.print_table(
        ("TENANT", "PLAN", "STATE", "TIME ZONE", "CREATED"),
        [
            (
                it.name,
                it.plan,
                it.state,
                it.overrides.zone,
                keyring.when(it.created_at) or "",
            )
            for it in tenants
        ],
    )


def _terms(tenant: Tenant) -> str:
    zone = tenant.overrides.zone
    return f"on plan {tenant.plan}" + ("" if zone == UTC else f", in {zone}")


def _to_json(tenant: Tenant) -> dict[str, str | None]:
    return {
        "name": tenant.name,
        "plan": tenant.plan,
        "state": tenant.state,
        "time_zone": tenant.overrides.zone,
        "created_at": keyring.when(tenant.created_at),
    }
