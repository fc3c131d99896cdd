"""`tollhouse keys`: what tenants call with."""

import argparse
import re
import sys
import time
from datetime import UTC, datetime

from tollhouse.adapters.redis.records import ApiKey
from tollhouse.cli import keyring
from tollhouse.cli.console import Console
from tollhouse.cli.tenants import warn_of_unknown_plan
from tollhouse.core.identity import DEFAULT_SCOPES, Permission, check_scopes

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()  # no later one can be shown

_CREATE = f"""\
Create an API key for a tenant. Standard output is the key and nothing else; it is shown
this once and kept nowhere: what is stored can't be turned back into it.

A scope is one of
  {" ".join(list(Permission)[:4])}
  {" ".join(list(Permission)[4:])}
and may be limited to models by a pattern, in which * stands for anything. Today's paths
need chat:write, completions:write and models:read; the others open nothing yet.

examples:
  tollhouse keys create --tenant acme
  tollhouse keys create --tenant acme --expires 30d --label ci \\
      --scope chat:write=tiny-* --scope models:read
  OPENAI_API_KEY=$(tollhouse keys create --tenant acme)
"""
_LIST = """\
List keys by tenant, revoked and expired ones too. The keys themselves are not known.

example:
  tollhouse keys list --tenant acme
"""
_REVOKE = """\
End a key for good. Within two seconds every worker refuses it; running responses end
normally. Revoking it again changes nothing.

example:
  tollhouse keys revoke k3v9q0z7m2xp        the part between the key's underscores
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "keys",
        help="create, list and revoke API keys",
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
    create.add_argument(
        "--expires",
        metavar="WHEN",
        help="90m, 12h, 30d, 8w from now, or a date: 2030-01-31, 2030-01-31T12:00Z",
    )
    create.add_argument("--label", default="", help="a note to tell keys apart by")
    keyring.add_place_options(create)
    keyring.add_pepper_option(create)
    create.set_defaults(run=keyring.reporting(_create))

    list_ = keyring.add_command(
        commands, "list", summary="list keys", description=_LIST
    )
    list_.add_argument("--tenant", metavar="NAME", help="only this tenant's")
    keyring.add_place_options(list_)
    list_.set_defaults(run=keyring.reporting(_list))

    revoke = keyring.add_command(
        commands, "revoke", summary="end a key", description=_REVOKE
    )
    revoke.add_argument("key_id", metavar="KEY_ID", help="12 of [a-z0-9]")
    keyring.add_place_options(revoke)
    revoke.set_defaults(run=keyring.reporting(_revoke))


def parse_expiry(text: str, now: float) -> float:
    """Unix seconds of a duration from `now` or of a date. Raises ValueError."""
    duration = _DURATION.fullmatch(text)
    if duration:
        expires_at = now + int(duration[1]) * _SECONDS[duration[2]]
    else:
        expires_at = _parse_date(text)
    if expires_at > _LATEST:
        raise ValueError(f"--expires {text!r}: the latest is 9999-12-31")
    return expires_at


def _parse_date(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"--expires {text!r}: write 30d, 12h or a date such as 2030-01-31"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def _create(args: argparse.Namespace) -> None:
    scopes = check_scopes(args.scope or [DEFAULT_SCOPES])
    expires_at = parse_expiry(args.expires, time.time()) if args.expires else None
    with keyring.open_keyring(args) as ring:
        key, record = ring.create_key(
            args.tenant,
            scopes=scopes,
            plan=args.plan,
            expires_at=expires_at,
            label=args.label,
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
        keys = ring.keys(args.tenant)
    if args.json:
        keyring.print_json({"keys": [_to_json(key) for key in keys]})
        return
    now = time.time()
    keyring.print_table(
        ("KEY ID", "TENANT", "STATE", "PLAN", "EXPIRES", "LABEL", "SCOPES"),
        [
            (
                key.key_id,
                key.tenant,
                key.state(now),
                key.plan or "-",
                keyring.when(key.expires_at) or "-",
                key.label or "-",
                key.scopes,
            )
            for key in keys
        ],
    )


def _revoke(args: argparse.Namespace) -> None:
    with keyring.open_keyring(args) as ring:
        record, is_new = ring.revoke(args.key_id)
    if args.json:
        keyring.print_json(_to_json(record))
        return
    when = "" if is_new else f" since {keyring.when(record.revoked_at)}"
    Console().line(f"key {record.key_id} of tenant {record.tenant} is revoked{when}")


def _to_json(key: ApiKey) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "tenant": key.tenant,
        "state": key.state(time.time()),
        "plan": key.plan,
        "scopes": key.scopes.split(),
        "label": key.label,
        "created_at": keyring.when(key.created_at),
        "expires_at": keyring.when(key.expires_at),
        "revoked_at": keyring.when(key.revoked_at),
    }
