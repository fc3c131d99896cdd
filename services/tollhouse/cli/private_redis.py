"""A Redis of our own for the length of a command: no port, nothing kept."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tollhouse.adapters.address import Address
from tollhouse.cli import places
from tollhouse.cli.children import Child, Children, describe
from tollhouse.cli.probes import redis_answers
from tollhouse.cli.unusable import UnusableError

_START_SECONDS = 10.0


@asynccontextmanager
async def private_redis() -> AsyncIterator[str]:
    """Run a redis-server until the block ends; gives its URL. Raises UnusableError."""
    binary = places.redis_binary()
    # /tmp: a socket's path ends at 107 bytes, and TMPDIR may be long.
    with tempfile.TemporaryDirectory(prefix="tollhouse-", dir="/tmp") as name:
        folder = Path(name)
        socket = Address(path=str(folder / "redis.sock"))
        command = (
            *(str(binary), "--port", "0", "--unixsocket", str(socket.path)),
            *("--dir", name, "--save", "", "--appendonly", "no"),
        )
        async with Children() as children:
            try:
                child = children.spawn(
                    command,
                    environment={"PATH": os.environ.get("PATH", os.defpath)},
                    log=folder / "redis.log",
                    directory=folder,
                )
            except OSError as error:
                raise UnusableError(f"{binary} does not start: {error}") from error
            await _until_ready(child, socket)
            yield f"unix://{socket.path}"


async def _until_ready(child: Child, socket: Address) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            while True:
                if child.status is not None:
                    raise UnusableError(f"redis-server {describe(child.status)}")
                try:
                    if await redis_answers(socket):
                        return
                except OSError:
                    await asyncio.sleep(0.01)
    except TimeoutError:
        raise UnusableError("redis-server does not answer") from None
