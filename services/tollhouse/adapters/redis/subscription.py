"""A channel of Redis, listened to for as long as the process lives.

Publish and subscribe lose what is said while nobody listens, so whoever is told
`began` must take it that anything may have been said before. A connection that died
without a word is noticed within two seconds.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import redis
import redis.asyncio
import structlog

PING_SECONDS: Final = 1.0
"""A channel quiet for so long is asked whether it lives, and given up after as long."""
FIRST_BACKOFF_SECONDS: Final = 0.1
LONGEST_BACKOFF_SECONDS: Final = 1.0

_log = structlog.get_logger()


class Subscription:
    """One channel on a connection of its own."""

    def __init__(
        self,
        connect: Callable[[], "redis.asyncio.Redis"],
        channel: str,
        *,
        heard: Callable[[str], None],
        began: Callable[[], None],
    ) -> None:
        """`heard` gets each message, `began` is called whenever listening begins."""
        self._connect = connect
        self._channel = channel
        self._heard = heard
        self._began = began
        self._is_lost = False

    async def run(self) -> None:
        """Listen until cancelled; never returns."""
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            try:
                async with self._connect() as client, client.pubsub() as pubsub:
                    await pubsub.subscribe(self._channel)
                    await self._listen(pubsub)
            except (redis.RedisError, OSError) as error:
                if not self._is_lost:
                    self._is_lost = True
                    # The kind only: the text may quote what the server was sent.
                    _log.warning(
                        "subscription.lost",
                        channel=self._channel,
                        reason=type(error).__name__,
                    )
                backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
            else:
                backoff = FIRST_BACKOFF_SECONDS
            await asyncio.sleep(backoff)

    async def _listen(self, pubsub: Any) -> None:
        """Pass on what is said. Returns when nobody is at the other end."""
        was_asked = False
        while True:
            message = await pubsub.get_message(timeout=PING_SECONDS)
            if message is None:
                if was_asked:
                    return
                await pubsub.ping()
                was_asked = True
                continue
            was_asked = False
            if message["type"] == "message":
                self._heard(message["data"])
            elif message["type"] == "subscribe":
                if self._is_lost:
                    self._is_lost = False
                    _log.info("subscription.returned", channel=self._channel)
                self._began()
