"""What `tenants`, `keys` and `limits` share: finding Redis, failing well."""

import argparse
import json
import os
import pwd
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tollhouse.adapters.pepper import Pepper, PepperError
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.keyring import Keyring, KeyringError
from tollhouse.cli.console import Console
from tollhouse.cli.redis_options import add_redis, add_state_dir, redis_of
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.problems import Unavailable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNUSABLE = 2


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which Redis is meant, and `--json`."""
    add_state_dir(parser)
    add_redis(parser, "--redis-url", "another Redis: unix:///path, redis://host:port/0")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_pepper_option(
    parser: argparse.ArgumentParser, *, is_needed: bool = True
) -> None:
    """Add the option of commands that make digests, or only look at them."""
    parser.set_defaults(needs_pepper=is_needed)
    parser.add_argument(
        "--pepper-file",
        type=Path,
        metavar="FILE",
        help="the pepper authz uses (default: DIR/pepper)",
    )


def redis_access(args: argparse.Namespace) -> RedisAccess:
    """The Redis the options mean. Raises UnusableError, ValueError."""
    return redis_of(args, "--redis-url")


@contextmanager
def open_keyring(args: argparse.Namespace) -> Iterator[Keyring]:
    """The keyring the options mean. Raises UnusableError, PepperError."""
    redis = redis_access(args)
    keyring = Keyring(redis, _pepper(args), who=who())
    try:
        yield keyring
    finally:
        keyring.close()


def reporting(
    work: Callable[[argparse.Namespace], None],
    failures: tuple[type[Exception], ...] = (),
) -> Callable[..., int]:
    """Make a command of a function: what it raises becomes one line and a status.

    `failures` are further ones that mean: it could not be done.
    """
    failed: tuple[type[Exception], ...] = (KeyringError, Unavailable, *failures)

    def run(args: argparse.Namespace) -> int:
        console = Console(sys.stderr)
        try:
            work(args)
        except (UnusableError, PepperError, ValueError) as error:
            for line in str(error).splitlines():
                console.error(line)
            return EXIT_UNUSABLE
        except failed as error:
            console.error(str(error))
            return EXIT_FAILED
        return EXIT_OK

    return run


def print_json(value: object) -> None:
    """Print one JSON document."""
    Console().line(json.dumps(value, indent=2))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns as wide as they need."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    console = Console()
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.line("  ".join(cells).rstrip())


def add_command(
    subparsers: Any, name: str, *, summary: str, description: str
) -> argparse.ArgumentParser:
    """Add a sub-subcommand whose description ends with an example."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def who(given: str | None = None) -> str:
    """Whom a change is put down to: who is `given`, else who runs this command."""
    if given:
        return given
    try:
        # Not by the environment: that says what it was told.
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"cli:{user}@{socket.gethostname()}"


def pepper_of(args: argparse.Namespace) -> Pepper:
    """The pepper the options mean. Raises UnusableError, PepperError."""
    if args.pepper_file is None and args.redis_url is not None:
        raise UnusableError(
            "--redis-url needs --pepper-file: the pepper its authz uses"
        )
    return Pepper.read(args.pepper_file or args.state_dir / "pepper")


def _pepper(args: argparse.Namespace) -> Pepper | None:
    """The pepper, None for commands that make no digests. Raises as `pepper_of`."""
    if "pepper_file" not in args:
        return None
    if not args.needs_pepper and args.pepper_file is None:
        at_hand = args.redis_url is None and (args.state_dir / "pepper").exists()
        return pepper_of(args) if at_hand else None
    return pepper_of(args)
