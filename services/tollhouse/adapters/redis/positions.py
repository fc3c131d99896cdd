"""Where each ledger's reader stands, kept beside what its lines caused."""

import asyncio
import contextlib
from collections.abc import Mapping

from tollhouse.adapters.ledger import Position
from tollhouse.adapters.redis.client import Redis, RedisReplyError
from tollhouse.adapters.redis.dedupe import MOST_HOURS
from tollhouse.core.problems import Unavailable

KEPT_SECONDS = MOST_HOURS * 3600
"""How long after its last sign of life a node may come back to its ledger.

As long as a record's id may be remembered: should it come later, and read what it had
settled again, its records are too old to be counted, and are set aside.
"""
RENEW_SECONDS = 3600.0


class Positions:
    """Committed positions in the files of one node's ledger: a hash, by inode.

    It outlives its node for a while and no longer, for pods never come back.
    """

    def __init__(self, redis: Redis, node: str) -> None:
        self._redis = redis
        self._key = f"th:ledger:{node}"
        self._is_new = True

    async def keep(self) -> None:
        """Renew them hourly, also where nothing is settled; never returns."""
        while True:
            with contextlib.suppress(Unavailable, RedisReplyError):  # the log has it
                await self._renew()
            await asyncio.sleep(RENEW_SECONDS)

    async def load(self) -> dict[int, Position]:
        """The last committed ones; a file without one is read from its start."""
        reply = await self._redis.call("HGETALL", self._key)
        texts = [it.decode() for it in reply if isinstance(it, bytes)]
        positions = {}
        for inode, text in zip(texts[::2], texts[1::2], strict=True):
            offset, _, digest = text.partition(" ")
            if inode.isdecimal() and offset.isdecimal():
                positions[int(inode)] = Position(int(offset), digest)
        return positions

    async def save(self, positions: Mapping[int, Position | None]) -> None:
        """Commit: everything before a position is settled. None: forget the file."""
        moved = [
            text
            for inode, position in positions.items()
            if position is not None
            for text in (inode, f"{position.offset} {position.digest}")
        ]
        if moved:
            await self._redis.call("HSET", self._key, *moved)
            if self._is_new:  # nobody may live to the next hour
                await self._renew()
                self._is_new = False
        gone = [inode for inode, position in positions.items() if position is None]
        if gone:
            await self._redis.call("HDEL", self._key, *gone)

    async def _renew(self) -> None:
        await self._redis.call("EXPIRE", self._key, KEPT_SECONDS)
