"""Where each ledger's reader stands, kept beside what its lines caused."""

from collections.abc import Mapping

from tollhouse.adapters.ledger import Place
from tollhouse.adapters.redis.client import Redis


class Positions:
    """Committed places in the files of one node's ledger: a hash, by inode."""

    def __init__(self, redis: Redis, node: str) -> None:
        self._redis = redis
        self._key = f"th:ledger:{node}"

    async def load(self) -> dict[int, Place]:
        """The last committed ones; a file without one is read from its start."""
        reply = await self._redis.call("HGETALL", self._key)
        texts = [it.decode() for it in reply if isinstance(it, bytes)]
        places = {}
        for inode, text in zip(texts[::2], texts[1::2], strict=True):
            offset, _, digest = text.partition(" ")
            if inode.isdecimal() and offset.isdecimal():
                places[int(inode)] = Place(int(offset), digest)
        return places

    async def save(self, places: Mapping[int, Place | None]) -> None:
        """Commit. Everything before a place is settled from here on; None: forget."""
        moved = [
            text
            for inode, place in places.items()
            if place is not None
            for text in (inode, f"{place.offset} {place.digest}")
        ]
        if moved:
            await self._redis.call("HSET", self._key, *moved)
        gone = [inode for inode, place in places.items() if place is None]
        if gone:
            await self._redis.call("HDEL", self._key, *gone)
