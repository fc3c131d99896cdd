"""What `tenants`, `keys` and `limits` share: finding Redis, failing well."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tollhouse.adapters.pepper import Pepper, PepperError
from tollhouse.adapters.redis.keyring import Keyring, KeyringError
from tollhouse.cli.console import Console
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.problems import Unavailable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNUSABLE = 2


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which Redis is meant, and `--json`."""
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(".tollhouse"),
        metavar="DIR",
        help="state directory of the running `tollhouse up` (default: .tollhouse)",
    )
    parser.add_argument(
        "--redis-url",
        metavar="URL",
        help="another Redis: unix:///path or redis://host:port/0",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_pepper_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that make digests."""
    parser.add_argument(
        "--pepper-file",
        type=Path,
        metavar="FILE",
        help="the pepper authz uses (default: DIR/pepper)",
    )


def redis_url(args: argparse.Namespace) -> str:
    """The Redis the options mean. Raises UnusableError."""
    return args.redis_url or local_redis(args.state_dir)


@contextmanager
def open_keyring(args: argparse.Namespace) -> Iterator[Keyring]:
    """The keyring the options mean. Raises UnusableError, PepperError."""
    url = redis_url(args)
    keyring = Keyring(url, _pepper(args) if "pepper_file" in args else None)
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
            console.error(str(error))
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


def when(unix: float | None) -> str | None:
    """A time as ISO 8601 in UTC, to the second."""
    if unix is None:
        return None
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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


def _pepper(args: argparse.Namespace) -> Pepper:
    if args.pepper_file is None and args.redis_url is not None:
        raise UnusableError(
            "--redis-url needs --pepper-file: the pepper its authz uses"
        )
    return Pepper.read(args.pepper_file or args.state_dir / "pepper")


def local_redis(state_dir: Path, option: str = "--redis-url") -> str:
    """The Redis of a running `tollhouse up`. Raises UnusableError without one."""
    # Resolved: the link leads to a path short enough for a socket.
    path = (state_dir / "run").resolve() / "redis.sock"
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for other users
        raise UnusableError(
            f"no gateway runs on {state_dir}: start one with `tollhouse up`, name its "
            f"--state-dir, be the user who runs it, or give {option}"
        )
    return f"unix://{path}"
