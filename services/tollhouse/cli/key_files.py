"""`tollhouse keys import` and `tollhouse keys digest`: keys that are kept in files."""

import argparse
import getpass
import json
import sys
import time
from pathlib import Path

import yaml

from tollhouse.adapters.redis.imports import Imported, NotImportedError
from tollhouse.adapters.redis.new_keys import draw_key
from tollhouse.adapters.redis.records import iso
from tollhouse.cli import keyring
from tollhouse.cli.console import Console
from tollhouse.cli.key_documents import read_documents
from tollhouse.cli.moments import parse_expiry
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.identity import check_tenant, is_key
from tollhouse.core.key_terms import check_terms

_IMPORT = """\
Make the keys of a source what a file says: new ones are created, others follow in their
scopes, plan, end, networks and labels. The file has digests, never keys, so it may lie
in a repository. Importing it again changes nothing, nor does a file with a fault.

The file is YAML (documents, lists, or one list under `keys`), JSON, or a JSON object a
line. Of each key it has key_id, digest and tenant, and may have scopes, plan,
expires_at, networks and labels:

  key_id: k3v9q0z7m2xp
  digest: v1:6f0e...          `tollhouse keys digest` makes it
  tenant: acme
  scopes: [chat:write=tiny-*, models:read]

What was revoked stays revoked, whatever the file says.

examples:
  tollhouse keys import keys.yaml --check
  tollhouse keys import keys.yaml --source platform --prune
  sops -d keys.json | tollhouse keys import -
"""
_DIGEST = """\
Print what `tollhouse keys import` takes of a key, read from standard input: its id and
its digest, which is worth nothing without the pepper. With --new a key is drawn: it
goes to standard output, alone and this once, and its document to standard error or into
a file, behind what that has already. Redis is not asked.

examples:
  tollhouse keys digest --tenant acme < key.txt
  tollhouse keys digest --new --tenant acme --scope chat:write --document keys.yaml
"""
_DEFAULT_SOURCE = "import"


def add_parsers(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add both commands to those of `keys`."""
    import_ = keyring.add_command(
        commands, "import", summary="take keys over from a file", description=_IMPORT
    )
    import_.add_argument("file", metavar="FILE", help="the file; -: standard input")
    import_.add_argument(
        "--source",
        default=_DEFAULT_SOURCE,
        metavar="NAME",
        help="the file's name here; it may prune its own (default: %(default)s)",
    )
    import_.add_argument(
        "--prune",
        action="store_true",
        help="revoke keys that came from this source and are not in the file",
    )
    import_.add_argument(
        "--check", action="store_true", help="say what would be done, change nothing"
    )
    keyring.add_place_options(import_)
    keyring.add_pepper_option(import_, is_needed=False)
    import_.set_defaults(run=keyring.reporting(_import))

    digest = keyring.add_command(
        commands, "digest", summary="make what a file has of a key", description=_DIGEST
    )
    digest.add_argument("--new", action="store_true", help="draw a key")
    digest.add_argument(
        "--document",
        type=Path,
        metavar="FILE",
        help="append the document to this file",
    )
    digest.add_argument("--tenant", metavar="NAME", help="whose key it is")
    for option, metavar, what in (
        ("--scope", "SCOPE", "what it may do; repeatable"),
        ("--network", "CIDR", "where it may be used from; repeatable"),
        ("--label", "TEXT", "a note; repeatable"),
    ):
        digest.add_argument(option, action="append", metavar=metavar, help=what)
    digest.add_argument("--plan", help="limits of its own")
    digest.add_argument("--expires", metavar="WHEN", help="as of `keys create`")
    digest.add_argument(
        "--state-dir",
        type=Path,
        default=Path(".tollhouse"),
        metavar="DIR",
        help="where the pepper is (default: .tollhouse)",
    )
    digest.add_argument("--json", action="store_true", help="print JSON")
    keyring.add_pepper_option(digest)
    digest.set_defaults(run=keyring.reporting(_digest), redis_url=None)


def _import(args: argparse.Namespace) -> None:
    name = "standard input" if args.file == "-" else args.file
    documents = read_documents(name, args.file)
    with keyring.open_keyring(args) as ring:
        try:
            done = ring.import_keys(
                [document for _, document in documents],
                source=args.source,
                prune=args.prune,
                dry_run=args.check,
            )
        except NotImportedError as error:
            raise UnusableError(
                "\n".join(f"{documents[at][0]}: {text}" for at, text in error.faults)
            ) from error
    for key_id in done.ended:
        Console(sys.stderr).warning(f"key {key_id} is over and stays so")
    _report(args, done)


def _report(args: argparse.Namespace, done: Imported) -> None:
    lists = {
        "created": done.created,
        "changed": done.changed,
        "revoked": done.pruned,
        "ended": done.ended,
        "unchanged": done.unchanged,
    }
    if args.json:
        keyring.print_json({**lists, "check": args.check})
        return
    console = Console()
    for what in ("created", "changed", "revoked"):
        for key_id in lists[what]:
            console.line(f"{what}  {key_id}")
    counts = ", ".join(f"{len(ids)} {what}" for what, ids in lists.items() if ids)
    would = "; nothing was done" if args.check else ""
    console.line(f"source {args.source}: {counts or 'no keys'}{would}")


def _digest(args: argparse.Namespace) -> None:
    pepper = keyring.pepper_of(args)
    asked = _asked(args)
    key = draw_key()[1] if args.new else _given_key()
    _, key_id, _ = key.split("_")
    document = {"key_id": key_id, "digest": pepper.digest(key), **asked}
    text = yaml.safe_dump(document, explicit_start=True, sort_keys=False, width=1000)
    if args.json:
        text = json.dumps(document) + "\n"
    if args.document is not None:
        try:
            with args.document.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UnusableError(f"{args.document}: {error.strerror}") from error
    elif args.new:
        sys.stderr.write(text)
    else:
        Console().line(text.rstrip("\n"))
    if args.new:
        Console().line(key)


def _asked(args: argparse.Namespace) -> dict[str, object]:
    """What the options add to a document. Raises ValueError."""
    now = time.time()
    expires_at = parse_expiry(args.expires, now) if args.expires else None
    fields: dict[str, object] = {}
    if args.tenant is not None:
        fields["tenant"] = check_tenant(args.tenant)
    terms = check_terms(
        **({"scopes": args.scope} if args.scope else {}),
        plan=args.plan,
        expires_at=expires_at,
        networks=args.network or (),
        labels=args.label or (),
        now=now,
    )
    if args.scope:
        fields["scopes"] = terms.scopes.split()
    if terms.plan:
        fields["plan"] = terms.plan
    if terms.expires_at is not None:
        fields["expires_at"] = iso(terms.expires_at)
    if terms.networks:
        fields["networks"] = terms.networks.split()
    if terms.labels:
        fields["labels"] = list(terms.labels)
    return fields


def _given_key() -> str:
    """Read a key. Raises UnusableError, which does not show what was read instead."""
    if sys.stdin.isatty():
        key = getpass.getpass("key: ").strip()
    else:
        key = sys.stdin.read(4096).strip()
    if not is_key(key):
        raise UnusableError(
            "standard input is no key (th_<12 letters>_<43 letters>); --new draws one"
        )
    return key
