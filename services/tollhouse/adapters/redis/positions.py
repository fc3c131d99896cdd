"""Where each ledger's reader stands, kept beside what its lines caused."""

from tollhouse.adapters.ledger import Position
from tollhouse.adapters.redis.client import Redis


class Positions:
    """Committed positions, one per node."""

    def __init__(self, redis: Redis, node: str) -> None:
        self._redis = redis
        self._key = f"th:ledger:{node}"

    async def load(self) -> Position:
        """The last committed one; the file's start when there is none."""
        reply = await self._redis.call("HMGET", self._key, "inode", "offset")
        match reply:
            case [bytes() as inode, bytes() as offset]:
                return Position(int(inode), int(offset))
            case _:
                return Position(0, 0)

    async def save(self, position: Position) -> None:
        """Commit. Everything before the position is settled from here on."""
        await self._redis.call(
            "HSET", self._key, "inode", position.inode, "offset", position.offset
        )
