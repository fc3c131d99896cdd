"""`tollhouse limits`: what tenants and keys may use, where it differs from the plan."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator

from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.adapters.redis.records import ApiKey, Tenant, public_limits
from tollhouse.cli import keyring, limits_show, limits_simulate
from tollhouse.cli.console import Console
from tollhouse.cli.overrides import add_options, change_of, describe
from tollhouse.cli.places import default_config
from tollhouse.core.catalog import MODEL_NAME
from tollhouse.core.entitlement import AS_PLANNED, Override

_SET = """\
Let the limits of a tenant, of a tenant on one model, or of one key differ from those of
the plan. What is not named stays as it is; `none` lifts a limit, `plan` takes the value
of the plan again. Requests follow within two seconds.

examples:
  tollhouse limits set --tenant acme --units-per-minute 500_000 --money-per-month 250
  tollhouse limits set --tenant acme --model tiny-chat --concurrent none
  tollhouse limits set --key k3v9q0z7m2xp --requests-per-minute 60 --shadow on
"""
_CLEAR = """\
Take the plan's limits again in one place: of the tenant, of the tenant on one model,
or of one key. What the others differ in stays.

examples:
  tollhouse limits clear --tenant acme
  tollhouse limits clear --tenant acme --model tiny-chat
"""
_LIST = """\
List every place where limits differ from the plan, and in what.

examples:
  tollhouse limits list --json
  tollhouse limits list --tenant acme
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "limits",
        help="show, set and simulate limits",
        description="Plans in tollhouse.yaml limit tenants and keys; here single ones"
        " get other limits. `tollhouse limits COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    set_ = keyring.add_command(
        commands, "set", summary="let limits differ from the plan", description=_SET
    )
    _add_target(set_)
    add_options(set_)
    keyring.add_place_options(set_)
    set_.set_defaults(run=keyring.reporting(_set))

    clear = keyring.add_command(
        commands, "clear", summary="take the plan's limits again", description=_CLEAR
    )
    _add_target(clear)
    keyring.add_place_options(clear)
    clear.set_defaults(run=keyring.reporting(_clear))

    list_ = keyring.add_command(
        commands, "list", summary="list what differs", description=_LIST
    )
    list_.add_argument("--tenant", metavar="NAME", help="only this one (default: all)")
    keyring.add_place_options(list_)
    list_.set_defaults(run=keyring.reporting(_list))

    limits_show.add_parser(commands)
    limits_simulate.add_parser(commands)


def _add_target(parser: argparse.ArgumentParser) -> None:
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--tenant", metavar="NAME", help="a tenant: all its keys")
    whose.add_argument("--key", metavar="KEY_ID", help="one key, 12 of [a-z0-9]")
    parser.add_argument("--model", help="the tenant's use of this model only")


def _set(args: argparse.Namespace) -> None:
    _report(args, _change(args, change_of(args)))


def _clear(args: argparse.Namespace) -> None:
    _report(args, _change(args, lambda _: AS_PLANNED))


_Entry = tuple[str, str | None, str | None, Override]
"""Tenant, key id, model, and what differs there."""


def _change(args: argparse.Namespace, change: Callable[[Override], Override]) -> _Entry:
    if args.model is not None:
        if args.tenant is None:
            raise ValueError("--model goes with --tenant; a key's limits are for all")
        if not re.fullmatch(MODEL_NAME, args.model):
            raise ValueError(f"--model {args.model!r} is no name of a model")
    with keyring.open_keyring(args) as ring:
        if args.key is not None:
            key = ring.override_key(args.key, change)
            return key.tenant, key.key_id, None, key.override
        overrides = ring.override_tenant(args.tenant, args.model, change).overrides
    if args.model is None:
        return args.tenant, None, None, overrides.tenant
    return args.tenant, None, args.model, overrides.models.get(args.model, AS_PLANNED)


def _report(args: argparse.Namespace, entry: _Entry) -> None:
    tenant, key_id, model, override = entry
    _warn(model, override)
    if args.json:
        keyring.print_json(_to_json(entry))
        return
    who = f"tenant {tenant}" if key_id is None else f"key {key_id} of tenant {tenant}"
    who += "" if model is None else f" on model {model}"
    but = "" if override == AS_PLANNED else f" but for {describe(override)}"
    Console().line(f"the limits of {who} are the plan's{but}")


def _warn(model: str | None, override: Override) -> None:
    """Say on stderr what the tollhouse.yaml at hand makes of it.

    Only warnings: the running gateway may have been started with another file.
    """
    path = default_config()
    try:
        models = load(path).models
    except ConfigurationError:
        return
    console = Console(sys.stderr)
    if model is not None and model not in models:
        console.warning(f"model {model} is not in {path} (there: {', '.join(models)})")
    free = [name for name, section in models.items() if section.prices is None]
    budgets = (override.money_per_day, override.money_per_month)
    if free and any(isinstance(budget, int) for budget in budgets):
        console.warning(
            f"money is counted by prices; in {path} these have none and count nothing: "
            + ", ".join(free)
        )


def _list(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        keys = ring.keys(args.tenant)  # raises for a tenant that is not there
        tenants = [it for it in ring.tenants() if args.tenant in (None, it.name)]
    entries = [*_of_tenants(tenants), *_of_keys(keys)]
    if args.json:
        keyring.print_json({"overrides": list(map(_to_json, entries))})
        return
    keyring.print_table(
        ("TENANT", "KEY ID", "MODEL", "DIFFERS IN"),
        [
            (tenant, key_id or "-", model or "-", describe(override))
            for tenant, key_id, model, override in entries
        ],
    )


def _of_tenants(tenants: list[Tenant]) -> Iterator[_Entry]:
    for tenant in tenants:
        if tenant.overrides.tenant != AS_PLANNED:
            yield tenant.name, None, None, tenant.overrides.tenant
        for model, override in sorted(tenant.overrides.models.items()):
            yield tenant.name, None, model, override


def _of_keys(keys: list[ApiKey]) -> Iterator[_Entry]:
    for key in keys:
        if key.override != AS_PLANNED:
            yield key.tenant, key.key_id, None, key.override


def _to_json(entry: _Entry) -> dict[str, object]:
    tenant, key_id, model, override = entry
    return {
        "tenant": tenant,
        "key_id": key_id,
        "model": model,
        "limits": public_limits(override),
    }
