"""What commands over all of billing share: both Redis, who asks, and their status."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tollhouse.adapters.configuration import ConfigurationError
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.client import Redis
from tollhouse.cli import keyring
from tollhouse.cli.console import Console
from tollhouse.cli.redis_options import add_redis, add_state_dir, redis_of
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.problems import Unavailable

_BUDGET_SECONDS = 5.0
_CONNECT_SECONDS = 3.0
_POLL_SECONDS = 0.02


def add_redis_options(parser: argparse.ArgumentParser, *, both: bool) -> None:
    """Add what says which Redis is meant, and `--json`."""
    add_state_dir(parser)
    forms = "unix:///path, redis://host:port/0 or redis+cluster://host:port,host:port"
    if both:
        what = f"another Redis of limits and outboxes: {forms}"
        add_redis(parser, "--redis-url", what)
    same = ", if it is not the same" if both else ""
    what = f"another Redis of billing{same}: {forms}"
    add_redis(parser, "--billing-redis-url", what)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_who_options(parser: argparse.ArgumentParser) -> None:
    """Add what the audit stream keeps."""
    parser.add_argument(
        "--why", required=True, metavar="TEXT", help="the reason, kept in the history"
    )
    parser.add_argument(
        "--who", metavar="NAME", help="who decides (default: the user who runs this)"
    )


def is_local(args: argparse.Namespace) -> bool:
    """Whether the running `tollhouse up` is meant, and its files are at hand."""
    return args.redis_url is None and args.billing_redis_url is None


@asynccontextmanager
async def open_gateway(args: argparse.Namespace) -> AsyncIterator[Redis]:
    """The gateway's Redis. Raises UnusableError, ValueError, Unavailable."""
    async with _connected(redis_of(args, "--redis-url")) as redis:
        yield redis


@asynccontextmanager
async def open_billing(args: argparse.Namespace) -> AsyncIterator[Redis]:
    """The billing Redis: the gateway's unless named. Raises as `open_gateway`."""
    async with _connected(
        redis_of(args, "--billing-redis-url", "--redis-url")
    ) as redis:
        yield redis


@asynccontextmanager
async def _connected(access: RedisAccess) -> AsyncIterator[Redis]:
    redis = await Redis.connect(access, budget_seconds=_BUDGET_SECONDS, is_quiet=True)
    try:
        deadline = time.monotonic() + _CONNECT_SECONDS
        while not redis.connected:
            if time.monotonic() > deadline:
                raise Unavailable(f"Redis can't be reached: {access.url}{_why(redis)}")
            await asyncio.sleep(_POLL_SECONDS)
        yield redis
    finally:
        await redis.close()


def _why(redis: Redis) -> str:
    """What an operator has to mend, if it is no outage."""
    trouble = redis.trouble
    return "" if trouble.transient else f" ({trouble})"


def reporting(
    work: Callable[[argparse.Namespace], Coroutine[Any, Any, int]],
    *,
    unavailable: int = keyring.EXIT_FAILED,
) -> Callable[[argparse.Namespace], int]:
    """Make a command of an asynchronous function that returns its exit status.

    What it raises becomes lines on stderr; `unavailable` is the status when a server
    does not answer.
    """

    def run(args: argparse.Namespace) -> int:
        try:
            return asyncio.run(work(args))
        except (UnusableError, ConfigurationError, ValueError) as error:
            return _fail(error, keyring.EXIT_UNUSABLE)
        except Unavailable as error:
            return _fail(error, unavailable)

    return run


def print_results(results: Sequence[tuple[str, str, bool]], *, as_json: bool) -> int:
    """Tell what became of each of some things; the exit status."""
    if as_json:
        keyring.print_json(
            {
                "results": [
                    {"id": name, "done": is_done, "what": text}
                    for name, text, is_done in results
                ]
            }
        )
    for name, text, is_done in results:
        if not is_done:
            Console(sys.stderr).error(f"{name}: {text}")
        elif not as_json:
            Console().line(f"{name}: {text}")
    return keyring.EXIT_OK if all(it[2] for it in results) else keyring.EXIT_FAILED


def _fail(error: Exception, status: int) -> int:
    console = Console(sys.stderr)
    for line in str(error).splitlines():
        console.error(line)
    return status
