"""`tollhouse tenants`: who is billed."""

import argparse
import sys
import time

from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.adapters.redis.records import (
    ApiKey,
    Tenant,
    iso,
    public_key,
    public_tenant,
)
from tollhouse.cli import keyring
from tollhouse.cli.console import Console
from tollhouse.cli.overrides import describe
from tollhouse.cli.places import default_config
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.entitlement import AS_PLANNED, UTC

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
within seconds; what the running day and month have used stays used.

examples:
  tollhouse tenants set acme --plan metered
  tollhouse tenants set acme --time-zone America/New_York
"""
_LIST = """\
List all tenants with their plan, state and time zone.

examples:
  tollhouse tenants list --json
  tollhouse tenants list --deleted
"""
_SHOW = """\
Show a tenant: its plan and state, its keys, and where its limits differ from the plan.

example:
  tollhouse tenants show acme
"""
_SUSPEND = """\
Refuse all requests of a tenant, with 403, until it is resumed. Every worker does at
once, within five seconds if Redis can't tell them; running responses end normally. Its
keys stay. Suspending it again changes nothing.

examples:
  tollhouse tenants suspend acme --reason "invoice 1042 is overdue"
  tollhouse tenants resume acme
"""
_RESUME = """\
Let the requests of a suspended tenant in again. Resuming one that is active changes
nothing.

example:
  tollhouse tenants resume acme
"""
_DELETE = """\
Delete a tenant for good: all its keys are revoked, and nothing brings them back. What
it used is still billed, and its name is not given again, because bills carry it.

examples:
  tollhouse tenants delete acme
  tollhouse tenants delete acme --yes          for scripts: nobody is asked
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

    def add(
        name: str, summary: str, description: str, *, one: bool = True
    ) -> argparse.ArgumentParser:
        command = keyring.add_command(
            commands, name, summary=summary, description=description
        )
        if one:
            command.add_argument("name", metavar="NAME", help="the tenant")
        keyring.add_place_options(command)
        return command

    create = add("create", "create a tenant", _CREATE, one=False)
    create.add_argument("name", metavar="NAME", help="1 to 64 of a-z, 0-9 and -")
    create.add_argument(
        "--plan", required=True, help="a plan of tollhouse.yaml: the tenant's limits"
    )
    create.add_argument("--time-zone", metavar="ZONE", help=f"{_ZONE} (default: UTC)")
    create.set_defaults(run=keyring.reporting(_create))

    set_ = add("set", "change a tenant", _SET)
    set_.add_argument("--plan", help="another plan of tollhouse.yaml")
    set_.add_argument("--time-zone", metavar="ZONE", help=_ZONE)
    set_.set_defaults(run=keyring.reporting(_set))

    list_ = add("list", "list tenants", _LIST, one=False)
    list_.add_argument("--deleted", action="store_true", help="deleted ones too")
    list_.set_defaults(run=keyring.reporting(_list))

    show = add("show", "show a tenant and its keys", _SHOW)
    show.set_defaults(run=keyring.reporting(_show))

    suspend = add("suspend", "refuse a tenant's requests", _SUSPEND)
    suspend.add_argument(
        "--reason", default="", metavar="TEXT", help="why; shown by `show` and `audit`"
    )
    suspend.set_defaults(run=keyring.reporting(_suspend))

    resume = add("resume", "let a tenant's requests in again", _RESUME)
    resume.set_defaults(run=keyring.reporting(_resume))

    delete = add("delete", "delete a tenant, revoke its keys", _DELETE)
    delete.add_argument("--yes", action="store_true", help="ask nobody")
    delete.set_defaults(run=keyring.reporting(_delete))


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
        keyring.print_json({**public_tenant(tenant), "created": is_new})
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
    _report(args, tenant, f"is {_terms(tenant)}")


def _list(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        tenants = ring.tenants(deleted=args.deleted)
    if args.json:
        keyring.print_json({"tenants": [public_tenant(tenant) for tenant in tenants]})
        return
    keyring.print_table(
        ("TENANT", "PLAN", "STATE", "TIME ZONE", "CREATED"),
        [
            (
                it.name,
                it.plan,
                it.state,
                it.overrides.zone,
                iso(it.created_at) or "",
            )
            for it in tenants
        ],
    )


def _show(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        tenant, keys = ring.tenant(args.name), ring.keys(args.name)
    now = time.time()
    if args.json:
        shown = [{**public_key(key), "state": key.state(now)} for key in keys]
        keyring.print_json({**public_tenant(tenant), "keys": shown})
        return
    console = Console()
    console.line(f"tenant     {tenant.name}")
    console.line(f"state      {tenant.state}" + _because(tenant))
    console.line(f"plan       {tenant.plan}")
    console.line(f"time zone  {tenant.overrides.zone}")
    console.line(f"created    {iso(tenant.created_at)}")
    console.line(f"limits     {describe(tenant.overrides.tenant) or 'as planned'}")
    for model, override in sorted(tenant.overrides.models.items()):
        console.line(f"  {model}  {describe(override)}")
    console.line(f"keys       {_count(keys, now)}")
    for key in keys:
        limits = "" if key.override == AS_PLANNED else describe(key.override)
        words = (key.key_id, key.state(now), key.plan or "", *key.labels, limits)
        console.line("  " + "  ".join(word for word in words if word))


def _suspend(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        tenant, _ = ring.suspend_tenant(args.name, args.reason)
    _report(args, tenant, "is suspended" + _because(tenant))


def _resume(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        tenant, _ = ring.resume_tenant(args.name)
    _report(args, tenant, f"is active, {_terms(tenant)}")


def _delete(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        keys = [key for key in ring.keys(args.name) if key.revoked_at is None]
        if not args.yes and not _is_meant(args.name, len(keys)):
            raise UnusableError("nothing was deleted")
        tenant, revoked, _ = ring.delete_tenant(args.name)
    if args.json:
        keyring.print_json({**public_tenant(tenant), "keys_revoked": revoked})
        return
    Console().line(f"tenant {tenant.name} is deleted; {_keys(revoked)} revoked by it")


def _is_meant(name: str, keys: int) -> bool:
    """Ask on the terminal. Raises UnusableError where nobody is there to ask."""
    if not sys.stdin.isatty():
        raise UnusableError(
            f"deleting {name} ends {_keys(keys)} for good: confirm with --yes"
        )
    sys.stderr.write(f"Delete tenant {name} and end {_keys(keys)} for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _report(args: argparse.Namespace, tenant: Tenant, what: str) -> None:
    if args.json:
        keyring.print_json(public_tenant(tenant))
    else:
        Console().line(f"tenant {tenant.name} {what}")


def _terms(tenant: Tenant) -> str:
    zone = tenant.overrides.zone
    return f"on plan {tenant.plan}" + ("" if zone == UTC else f", in {zone}")


def _because(tenant: Tenant) -> str:
    return f": {tenant.reason}" if tenant.reason else ""


def _keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count} keys"


def _count(keys: list[ApiKey], now: float) -> str:
    states = [key.state(now) for key in keys]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
