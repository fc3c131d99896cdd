"""Options that say which Redis a command means, and who it is there."""

import argparse
import os
from pathlib import Path
from typing import Any

from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.cli.redis_users import OPERATOR, RedisUsers
from tollhouse.cli.unusable import UnusableError

_DETAILS = ("user", "password_file", "ca_file", "cert_file", "key_file")


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    """Add `--state-dir`."""
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(".tollhouse"),
        metavar="DIR",
        help="state directory of the running `tollhouse up` (default: .tollhouse)",
    )


def add_redis(parser: argparse.ArgumentParser, option: str, what: str) -> None:
    """Add an option that names a Redis, `--redis-url` say, and what goes with it."""
    prefix = option.removesuffix("-url")
    parser.add_argument(option, metavar="URL", help=what)
    parser.add_argument(
        f"{prefix}-user", metavar="NAME", help="who to be there (deploy/redis)"
    )
    for name, help_ in (
        ("password", "that user's password"),
        ("ca", "who signs its certificate, for rediss:// (default: system's)"),
        ("cert", "our certificate, where it wants one"),
        ("key", "the key of that certificate"),
    ):
        parser.add_argument(
            f"{prefix}-{name}-file", type=Path, metavar="FILE", help=help_
        )


def redis_of(
    args: argparse.Namespace, *options: str, instead: str | None = None
) -> RedisAccess:
    """The Redis that the first option given names, else that of `--state-dir`.

    `instead` is the option to name to whom has no gateway there. Raises UnusableError
    for that, ValueError for options that don't fit together.
    """
    named = None
    for option in options:
        url, details = _given(args, option)
        if url is None and any(details):
            raise UnusableError(f"{_prefix(option)}-* without {option}")
        if named is None and url is not None:
            named = RedisAccess(url, *details)
    return named or local_redis(args.state_dir, instead or options[0])


def local_redis(state_dir: Path, option: str = "--redis-url") -> RedisAccess:
    """The Redis of a running `tollhouse up`. Raises UnusableError without one."""
    # Resolved: the link leads to a path short enough for a socket.
    path = (state_dir / "run").resolve() / "redis.sock"
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for other users
        raise UnusableError(
            f"no gateway runs on {state_dir}: start one with `tollhouse up`, name its "
            f"--state-dir, be the user who runs it, or give {option}"
        )
    url = f"unix://{path}"
    users = RedisUsers(state_dir / "redis-users")
    if not users.password_file(OPERATOR).exists():  # a Redis without users
        return RedisAccess(url)
    return users.access(url, OPERATOR)


def _given(args: argparse.Namespace, option: str) -> tuple[str | None, tuple[Any, ...]]:
    """Return a URL and what goes with it; a command need not have the option."""
    prefix = _prefix(option).removeprefix("--").replace("-", "_")
    url, *details = (getattr(args, f"{prefix}_{it}", None) for it in ("url", *_DETAILS))
    return url, tuple(details)


def _prefix(option: str) -> str:
    return option.removesuffix("-url")
