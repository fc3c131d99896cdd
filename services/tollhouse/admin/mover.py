"""Moves keys from an older pepper's digest to the current one's, as they are used."""

import asyncio

import structlog

from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.core.problems import Unavailable

_MOST_WAITING = 10_000

_log = structlog.get_logger()


class Mover:
    """Takes what authz says of keys it met; what is lost here is said again."""

    def __init__(self, ring: Keyring) -> None:
        self._ring = ring
        self._waiting: asyncio.Queue[str] = asyncio.Queue(_MOST_WAITING)

    def heard(self, message: str) -> None:
        """Take a message of `adapters.redis.changes.key_seen`."""
        if not self._waiting.full():
            self._waiting.put_nowait(message)

    async def run(self) -> None:
        """Work until cancelled; never returns."""
        while True:
            message = await self._waiting.get()
            old, _, new = message.partition(" ")
            try:
                await asyncio.to_thread(self._ring.move, old, new)
            except ValueError as error:
                # Not the message: it may be anything.
                _log.warning("move.refused", reason=str(error))
            except Unavailable as error:
                _log.warning("move.failed", reason=str(error))
            except Exception:  # noqa: BLE001 - one bad record must not stop the API
                _log.exception("move.failed")
