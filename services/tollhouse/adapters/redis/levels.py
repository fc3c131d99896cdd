"""What Redis holds of limits right now: read for an operator, nothing is written.

Blocking: for the command line, not for services. The reads are several, while exchanges
go on: what they say together may be a moment apart.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.blocking import open_blocking, translated
from tollhouse.adapters.redis.stored import Stored
from tollhouse.core import buckets
from tollhouse.core.limits import Debit, Measure

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Taken:
    """What is taken of one limit, as `core.room` has levels.

    `in_flight`: open exchanges charged to it; `reserved`: what they were charged so
    far, in the limit's own measure. It is a part of the level.
    """

    level: int
    reserved: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Owned:
    """One limit of one owner, as the facts of an exchange name it."""

    debit: Debit
    tenant: str
    key_id: str
    model: str

    @property
    def key(self) -> str:
        """Where Redis has it."""
        return shards.limit(self.debit, self.tenant, self.key_id, self.model)

    @property
    def slot(self) -> int:
        """Which slot that is in."""
        is_fleet = self.debit.scope.is_fleet
        return shards.FLEET if is_fleet else shards.shard(self.tenant)


@dataclass(slots=True)
class _Open:
    """Sums over the open exchanges of one limit."""

    exchanges: int = 0
    units: int = 0
    money: int = 0


class Levels:
    """Reads levels of one Redis. Every method raises Unavailable without it."""

    def __init__(self, place: RedisAccess | str) -> None:
        """Connect on first use. Raises ValueError for a URL that can't be one."""
        self._redis = open_blocking(place)

    def close(self) -> None:
        """Give the connection back."""
        self._redis.close()

    def now_ms(self) -> int:
        """Tell Redis' time, which the limits go by."""
        with translated():
            seconds, microseconds = self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def read(self, places: Sequence[Owned], now_ms: int) -> list[Taken]:
        """Read the level of each place, in order."""
        with translated():
            slots = sorted({place.slot for place in places})
            opened = {slot: self._open(slot, now_ms) for slot in slots}
            pipe = self._redis.pipeline(transaction=False)
            for place in places:
                _ask(pipe, place, now_ms)
            replies = pipe.execute()
            return [
                _level(place, reply, opened[place.slot].get(place.key, _Open()), now_ms)
                for place, reply in zip(places, replies, strict=True)
            ]

    def _open(self, slot: int, now_ms: int) -> Mapping[str, _Open]:
        """Sum up a slot's open exchanges by the limits they are charged to."""
        sums: dict[str, _Open] = defaultdict(_Open)
        leases = shards.leases(slot)
        ids = self._redis.zrangebyscore(leases, f"({now_ms}", "+inf")
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            texts = self._redis.mget([shards.exchange(slot, id_) for id_ in some])
            for text in texts:
                _add(sums, slot, text)
        return sums


def _add(sums: dict[str, _Open], slot: int, text: str | None) -> None:
    """Add an exchange, if it is open still."""
    stored = None if text is None else Stored.parse(text)
    if stored is None or stored.facts is None or stored.state != "R":
        return
    facts = stored.facts
    for debit in facts.debits:
        place = Owned(debit, facts.tenant, facts.key_id, facts.served_model)
        if place.slot != slot:
            continue
        found = sums[place.key]
        found.exchanges += 1
        found.units += stored.units
        found.money += stored.money


def _ask(pipe: Any, place: Owned, now_ms: int) -> None:
    match place.debit.measure:
        case Measure.CONCURRENT:
            pipe.zcount(place.key, f"({now_ms}", "+inf")
        case Measure.CAPACITY:
            pipe.hget(place.key, "*")
        case _:
            pipe.get(place.key)


def _level(place: Owned, reply: str | int | None, opened: _Open, now_ms: int) -> Taken:
    measure = place.debit.measure
    numbers = list(map(int, str(reply or 0).split()))
    level = numbers[0]
    if measure.is_bucket and len(numbers) > 1:
        level = buckets.drain(level, place.debit.parameter, now_ms - numbers[1])
    match measure:
        case Measure.REQUESTS | Measure.CONCURRENT:
            reserved = opened.exchanges
        case _:
            reserved = opened.money if measure.is_money else opened.units
    return Taken(level, reserved, opened.exchanges)
