"""The `tollhouse` command: finds the module of a subcommand and runs it.

Modules are imported only when they are asked for: some need most of a second.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "up": ("up", "start the whole stack on this machine"),
    "tenants": ("tenants", "create, change and list tenants"),
    "keys": ("keys", "create, list, rotate and revoke API keys"),
    "audit": ("audit", "show who changed which tenant or key, and when"),
    "limits": ("limits", "show, set and simulate limits"),
    "usage": ("usage", "show token usage per tenant, model and hour"),
    "billing": (
        "billing",
        "meters, prices and customers at Stripe, and what waits for them",
    ),
    "reconcile": ("reconcile", "compare all books: gateway, bills, engine"),
    "envoy": (
        "envoy",
        "write the configuration of an Envoy that something else starts",
    ),
    "check-config": (
        "check_config",
        "check tollhouse.yaml and envoy.yaml, separately and together",
    ),
}
"""Subcommand → module in `tollhouse.cli`, one line of help."""

_DESCRIPTION = """\
Tollhouse is the gateway of a self-hosted LLM platform: Envoy in front of the GPU fleet,
API keys, token limits, and usage that is exact to the token.
"""
_EXAMPLES = """\
examples:
  tollhouse up                                   everything here, with a demo key
  tollhouse up --backend http://127.0.0.1:8080   the same, before your own server
  tollhouse tenants create acme --plan demo
  tollhouse keys create --tenant acme --scope chat:write
  tollhouse limits set --tenant acme --units-per-minute 500_000
  tollhouse usage --tenant acme

`tollhouse COMMAND --help` explains a command. Exit status: 0 done, 1 it failed,
2 the command line, a file or the machine is not right.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = _parser(given)  # may import for most of a second: Ctrl-C comes here
        if not given:
            parser.print_help(sys.stderr)
            return 2
        args = parser.parse_args(given)
        status: int = args.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output left, as `head` does. Nothing more can be said, also
        # not by the interpreter when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tollhouse",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        if name in given:
            importlib.import_module(f"tollhouse.cli.{module}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser


if __name__ == "__main__":
    sys.exit(main())
