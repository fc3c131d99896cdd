"""`tollhouse keys`: what tenants call with."""

import argparse
import sys
import time

from tollhouse.adapters.redis.new_keys import DEFAULT_GRACE_SECONDS
from tollhouse.adapters.redis.records import ApiKey, iso, public_key
from tollhouse.cli import key_files, keyring
from tollhouse.cli.console import Console
from tollhouse.cli.moments import parse_duration, parse_expiry
from tollhouse.cli.overrides import describe
from tollhouse.cli.tenants import warn_of_unknown_plan
from tollhouse.core.identity import DEFAULT_SCOPES, Permission, check_scopes

_CREATE = f"""\
Create an API key for a tenant. Standard output is the key and nothing else; it is shown
this once and kept nowhere: what is stored can't be turned back into it.

A scope is one of
  {" ".join(list(Permission)[:4])}
  {" ".join(list(Permission)[4:])}
and may be limited to models by a pattern, in which * stands for anything. usage:read
opens nothing yet.

examples:
  tollhouse keys create --tenant acme
  tollhouse keys create --tenant acme --expires 30d --label ci \\
      --scope chat:write=tiny-* --scope models:read --network 203.0.113.0/24
  OPENAI_API_KEY=$(tollhouse keys create --tenant acme)
"""
_LIST = """\
List keys by tenant, revoked and expired ones too. The keys themselves are not known.

examples:
  tollhouse keys list --tenant acme
  tollhouse keys list --state active --label ci
  tollhouse keys list --pepper v1         which keep an old pepper from being removed
"""
_SHOW = """\
Show a key: what it allows, until when, and what took its place.

example:
  tollhouse keys show k3v9q0z7m2xp
"""
_ROTATE = """\
Make a key that takes another's place: of the same tenant, with the same scopes, plan,
networks, labels, limits and end. Both work until the grace is over, then only the new
one. Standard output is the new key and nothing else; it is shown this once.

A key that was rotated is refused, so that a script that runs twice makes one key;
--again makes another one all the same, when the first was lost.

examples:
  tollhouse keys rotate k3v9q0z7m2xp
  tollhouse keys rotate k3v9q0z7m2xp --grace 7d --expires 90d
  tollhouse keys rotate k3v9q0z7m2xp --grace 0s          the old one leaked
"""
_REVOKE = """\
End a key for good. Every worker refuses it at once, within five seconds if Redis can't
tell them; running responses end normally. Revoking it again changes nothing.

example:
  tollhouse keys revoke k3v9q0z7m2xp        the part between the key's underscores
"""
_EXPIRES = "90m, 12h, 30d, 8w from now, or a date: 2030-01-31, 2030-01-31T12:00Z"


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "keys",
        help="create, list, rotate and revoke API keys",
        description="A key is what a tenant's clients call with."
        " `tollhouse keys COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    create = keyring.add_command(
        commands, "create", summary="create a key", description=_CREATE
    )
    create.add_argument("--tenant", required=True, metavar="NAME", help="whose key")
    create.add_argument(
        "--scope",
        action="append",
        metavar="SCOPE",
        help=f"what it may do; repeatable (default: {DEFAULT_SCOPES})",
    )
    create.add_argument("--plan", help="limits of its own (default: the tenant's plan)")
    create.add_argument("--expires", metavar="WHEN", help=_EXPIRES)
    create.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="CIDR",
        help="where it may be used from; repeatable (default: anywhere)",
    )
    create.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="TEXT",
        help="a note to tell keys apart by; repeatable",
    )
    keyring.add_place_options(create)
    keyring.add_pepper_option(create)
    create.set_defaults(run=keyring.reporting(_create))

    list_ = keyring.add_command(
        commands, "list", summary="list keys", description=_LIST
    )
    list_.add_argument("--tenant", metavar="NAME", help="only this tenant's")
    list_.add_argument("--label", metavar="TEXT", help="only those with this label")
    list_.add_argument(
        "--state", choices=("active", "expired", "revoked"), help="only those"
    )
    list_.add_argument(
        "--pepper", metavar="VERSION", help="only those with digests by this pepper"
    )
    keyring.add_place_options(list_)
    list_.set_defaults(run=keyring.reporting(_list))

    show = keyring.add_command(
        commands, "show", summary="show a key", description=_SHOW
    )
    show.add_argument("key_id", metavar="KEY_ID", help="12 of [a-z0-9]")
    keyring.add_place_options(show)
    show.set_defaults(run=keyring.reporting(_show))

    rotate = keyring.add_command(
        commands, "rotate", summary="replace a key", description=_ROTATE
    )
    rotate.add_argument("key_id", metavar="KEY_ID", help="12 of [a-z0-9]")
    rotate.add_argument(
        "--grace",
        metavar="TIME",
        help="how long the old one still works; 0s: not at all (default: 24h)",
    )
    rotate.add_argument("--expires", metavar="WHEN", help=f"of the new one: {_EXPIRES}")
    rotate.add_argument(
        "--again", action="store_true", help="although it was rotated before"
    )
    keyring.add_place_options(rotate)
    keyring.add_pepper_option(rotate)
    rotate.set_defaults(run=keyring.reporting(_rotate))

    revoke = keyring.add_command(
        commands, "revoke", summary="end a key", description=_REVOKE
    )
    revoke.add_argument("key_id", metavar="KEY_ID", help="12 of [a-z0-9]")
    keyring.add_place_options(revoke)
    revoke.set_defaults(run=keyring.reporting(_revoke))

    key_files.add_parsers(commands)


def _create(args: argparse.Namespace) -> None:
    scopes = check_scopes(args.scope or [DEFAULT_SCOPES])
    expires_at = parse_expiry(args.expires, time.time()) if args.expires else None
    with keyring.open_keyring(args) as ring:
        key, record = ring.create_key(
            args.tenant,
            scopes=scopes,
            plan=args.plan,
            expires_at=expires_at,
            networks=args.network,
            labels=args.label,
        )
    if args.plan is not None:
        warn_of_unknown_plan(args.plan)
    if args.json:
        keyring.print_json({**_to_json(record), "key": key})
        return
    Console(sys.stderr).line(
        f"key {record.key_id} of tenant {record.tenant} created, for {record.scopes};\n"
        "this is the only time it is shown:"
    )
    Console().line(key)


def _list(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        keys = ring.keys(
            args.tenant, label=args.label, state=args.state, pepper=args.pepper
        )
    if args.json:
        keyring.print_json({"keys": [_to_json(key) for key in keys]})
        return
    now = time.time()
    keyring.print_table(
        ("KEY ID", "TENANT", "STATE", "PLAN", "EXPIRES", "LABELS", "SCOPES"),
        [
            (
                key.key_id,
                key.tenant,
                key.state(now),
                key.plan or "-",
                iso(key.expires_at) or "-",
                ", ".join(key.labels) or "-",
                key.scopes,
            )
            for key in keys
        ],
    )


def _show(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        key = ring.key(args.key_id)
        tenant = ring.tenant(key.tenant)
    if args.json:
        keyring.print_json({**_to_json(key), "tenant_state": tenant.state})
        return
    rows = {
        "key": key.key_id,
        "tenant": f"{key.tenant} ({tenant.state})",
        "state": key.state(time.time()),
        "plan": key.plan or f"{tenant.plan} (the tenant's)",
        "scopes": key.scopes,
        "networks": key.networks or "anywhere",
        "labels": ", ".join(key.labels) or "-",
        "limits": describe(key.override) or "as planned",
        "created": iso(key.created_at),
        "expires": iso(key.expires_at) or "never",
        "revoked": iso(key.revoked_at),
        "replaces": key.rotated_from,
        "replaced by": key.rotated_to,
        "imported from": key.source,
        "pepper": key.pepper,
    }
    for name, value in rows.items():
        if value:
            Console().line(f"{name:<14} {value}")


def _rotate(args: argparse.Namespace) -> None:
    now = time.time()
    grace = DEFAULT_GRACE_SECONDS
    if args.grace is not None:
        grace = parse_duration(args.grace, "--grace")
    expires_at = parse_expiry(args.expires, now) if args.expires else None
    with keyring.open_keyring(args) as ring:
        made = ring.rotate(
            args.key_id, grace_seconds=grace, expires_at=expires_at, again=args.again
        )
    if args.json:
        shown = {**_to_json(made.new), "key": made.key, "old": _to_json(made.old)}
        keyring.print_json(shown)
        return
    Console(sys.stderr).line(
        f"key {made.new.key_id} of tenant {made.new.tenant} takes the place of "
        f"{made.old.key_id}, which ends at {iso(made.old.expires_at)};\n"
        "this is the only time it is shown:"
    )
    Console().line(made.key)


def _revoke(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        record, is_new = ring.revoke(args.key_id)
    if args.json:
        keyring.print_json(_to_json(record))
        return
    when = "" if is_new else f" since {iso(record.revoked_at)}"
    Console().line(f"key {record.key_id} of tenant {record.tenant} is revoked{when}")


def _to_json(key: ApiKey) -> dict[str, object]:
    return {**public_key(key), "state": key.state(time.time())}
