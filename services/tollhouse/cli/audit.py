"""`tollhouse audit`: who changed what, and when."""

import argparse
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from tollhouse.adapters.redis.audit import UNREADABLE, AuditEntry
from tollhouse.cli import keyring
from tollhouse.cli.console import Console
from tollhouse.cli.moments import parse_since
from tollhouse.core.identity import check_key_id, check_tenant

_MOST = 100_000

_DESCRIPTION = """\
Show who changed which tenant or key, and when, by whatever way. The newest entries come
last.

examples:
  tollhouse audit --tenant acme
  tollhouse audit --key k3v9q0z7m2xp --json
  tollhouse audit --since 1d --limit 1000
  tollhouse audit --follow
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = keyring.add_command(
        subparsers,
        "audit",
        summary="show who changed which tenant or key, and when",
        description=_DESCRIPTION,
    )
    parser.add_argument("--tenant", metavar="NAME", help="only what concerns this one")
    parser.add_argument("--key", metavar="KEY_ID", help="only what concerns this key")
    parser.add_argument(
        "--since", metavar="WHEN", help="only later ones: 90m, 1d, 4w ago, or a date"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=50,
        metavar="N",
        help="at most so many, the newest (default: %(default)s)",
    )
    parser.add_argument(
        "--follow", action="store_true", help="and show further ones as they come"
    )
    keyring.add_place_options(parser)
    parser.set_defaults(run=keyring.reporting(_audit))


def _audit(args: argparse.Namespace) -> None:
    if not 1 <= args.limit <= _MOST:
        raise ValueError(f"--limit {args.limit}: from 1 to {_MOST}")
    tenant = None if args.tenant is None else check_tenant(args.tenant)
    key_id = None if args.key is None else check_key_id(args.key)
    since = None if args.since is None else parse_since(args.since, time.time())
    with keyring.open_keyring(args) as ring:
        last = ring.log.last_id()
        entries, _ = ring.log.latest(
            args.limit, tenant=tenant, key_id=key_id, since=since, through=last
        )
        entries.reverse()
        if args.json and not args.follow:
            keyring.print_json({"entries": [_to_json(entry) for entry in entries]})
            return
        _print(entries, args.json)
        if args.follow:
            _print(ring.log.follow(last, tenant=tenant, key_id=key_id), args.json)


def _print(entries: Iterable[AuditEntry], as_json: bool) -> None:  # noqa: FBT001
    console = Console()
    for entry in entries:
        if as_json:
            console.line(json.dumps(_to_json(entry)))
        else:
            console.line(
                f"{_when(entry.at)}  {entry.who}  {entry.action}  {_about(entry)}"
                f"{_describe(entry)}"
            )


def _about(entry: AuditEntry) -> str:
    if entry.action == UNREADABLE:
        return f"entry {entry.id}"
    return f"tenant {entry.tenant}" + (f" key {entry.key_id}" if entry.key_id else "")


def _describe(entry: AuditEntry) -> str:
    """What changed, in one line."""
    parts = []
    for field, change in entry.changes.items():
        values = [
            value if isinstance(value, str) else json.dumps(value)
            for value in (change.get("from"), change.get("to"))
            if value is not None
        ]
        gone = " → none" if "to" not in change else ""
        parts.append(f"{field} {' → '.join(values)}{gone}")
    return f": {', '.join(parts)}" if parts else ""


def _when(at: float) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _to_json(entry: AuditEntry) -> dict[str, object]:
    return {
        "id": entry.id,
        "at": _when(entry.at),
        "who": entry.who,
        "action": entry.action,
        "tenant": entry.tenant,
        "key_id": entry.key_id or None,
        "changes": entry.changes,
    }
