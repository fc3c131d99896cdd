"""What is left to do when Envoy has ended, or is about to: the ledger's last lines."""

import asyncio

import structlog

from tollhouse.extproc.relay import Relay
from tollhouse.extproc.settler import Settler

FLUSH_SECONDS = 0.25
"""Envoy writes a line at most 100 ms after its exchange ended."""

_log = structlog.get_logger()


class LastLines:
    """Settles and delivers what has ended, while settler and relay run."""

    def __init__(self, settler: Settler, relay: Relay, *, most_seconds: float) -> None:
        self._settler = settler
        self._relay = relay
        self._most_seconds = most_seconds

    async def settle(self) -> bool:
        """Return when all of it is settled and delivered; False after `most_seconds`.

        What was not settled then is so by the ledger's next reader, as long as there is
        one. What was settled is safe in Redis, delivered or not.
        """
        await asyncio.sleep(FLUSH_SECONDS)
        try:
            async with asyncio.timeout(self._most_seconds):
                await self._settler.settled()
                await self._relay.flushed()
        except TimeoutError:
            return False
        return True

    async def finish(self) -> None:
        """The same, for a process that ends; what is left is logged."""
        if not await self.settle():
            _log.error("ledger.unfinished", seconds=self._most_seconds)
