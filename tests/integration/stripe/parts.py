"""Our side of Stripe: an account on a stand-in, and chunks to send there."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from tests.stripe_stand_in.stand_in import StandIn
from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.secret import Secret
from tollhouse.core.chunk import Account, Attempt, Chunk, Window, identifier
from tollhouse.core.windows import TokenType

EVENT_NAME = "tollhouse.tiny-chat.output"
CUSTOMER = "cus_acme"


@contextlib.asynccontextmanager
async def stripe_account(
    stand_in: StandIn, *, key: str | None = None, seconds: float = 5.0
) -> AsyncIterator[Client]:
    """Our client of a stand-in."""
    secret = Secret(stand_in.api_key if key is None else key)
    client = Client(secret, url=stand_in.url, timeout_seconds=seconds)
    try:
        yield client
    finally:
        await client.close()


def attempt(
    seq: int = 1,
    value: int = 5,
    *,
    number: int = 1,
    event_name: str = EVENT_NAME,
    customer: str = CUSTOMER,
    known_as: str | None = None,
) -> Attempt:
    """An attempt on a chunk of the last full hour, minute `seq`."""
    hour = int(time.time()) // 3600 - 1
    window = Window("acme", "tiny-chat", TokenType.OUTPUT, hour)
    chunk = Chunk(
        window=window,
        seq=seq,
        value=value,
        timestamp=hour * 3600 + (seq - 1) % 60 * 60,
        identifier=known_as or identifier("test", 3, window, seq),
        event_name=event_name,
        account=Account("stripe", customer),
    )
    return Attempt(chunk, number)


def chain(error: BaseException) -> str:
    """All an exception holds on to, as text: what a log could get out of it."""
    texts = []
    seen: BaseException | None = error
    while seen is not None:
        texts.append(repr(seen) + repr(vars(seen)))
        seen = seen.__cause__ or seen.__context__
    return "\n".join(texts)


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that says the same to every request and hangs up; gives its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
