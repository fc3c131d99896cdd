"""Where each ledger's reader stands, kept beside what its lines caused."""

from collections.abc import Mapping

from tollhouse.adapters.ledger import Position
from tollhouse.adapters.redis.client import Redis


class Positions:
    """Committed positions in the files of one node's ledger: a hash, by inode."""

    def __init__(self, redis: Redis, node: str) -> None:
        self._redis = redis
        self._key = f"th:ledger:{node}"

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
        gone = [inode for inode, position in positions.items() if position is None]
        if gone:
            await self._redis.call("HDEL", self._key, *gone)
