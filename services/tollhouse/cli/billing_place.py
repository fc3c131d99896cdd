"""What `billing` commands share: finding the Redis of the aggregator."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.customers import CustomerError
from tollhouse.cli import keyring
from tollhouse.cli.redis_options import add_redis, add_state_dir, redis_of

_BUDGET_SECONDS = 5.0


def add_billing_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which billing Redis is meant, and `--json`."""
    add_state_dir(parser)
    add_redis(
        parser,
        "--billing-redis-url",
        "another Redis of billing: unix:///path, redis://host:port/0 or"
        " redis+cluster://host:port,host:port",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


@asynccontextmanager
async def open_billing_redis(args: argparse.Namespace) -> AsyncIterator[Redis]:
    """The Redis the options mean. Raises UnusableError, ValueError."""
    access = redis_of(args, "--billing-redis-url")
    redis = await Redis.connect(access, budget_seconds=_BUDGET_SECONDS, is_quiet=True)
    try:
        yield redis
    finally:
        await redis.close()


def reporting(
    work: Callable[[argparse.Namespace], Coroutine[Any, Any, None]],
) -> Callable[..., int]:
    """Make a command of an asynchronous function, as `keyring.reporting` does."""
    return keyring.reporting(lambda args: asyncio.run(work(args)), (CustomerError,))
