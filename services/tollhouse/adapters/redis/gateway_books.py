"""The gateway's side of the books: what was settled, and what is still on its way.

`{s17}:settled:<tenant>:<hour>` has no index: with a tenant its hours are asked by name,
else the servers are scanned. Nothing is written.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.bulk import ask_in_turns, scan, stream
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.refused import DISCARD, Waiting, to_fields, to_waiting
from tollhouse.core.reconciliation import EXCHANGES
from tollhouse.core.windows import SECONDS_PER_HOUR, Position, TokenType

KEPT_SECONDS = 3_456_000
"""How long sums are kept behind the last record of their hour (exchange.lua)."""
_MARGIN_SECONDS = SECONDS_PER_HOUR
"""Sums must not vanish while they are read, nor by a clock that differs from Redis'."""

_SETTLED = re.compile(r"\{s\d+\}:settled:([a-z0-9-]+):(\d+)")

TenantHour = tuple[str, int]
Sums = dict[Position, dict[str, int]]
"""By row: each quantity."""


def first_covered(now: float) -> int:
    """The first hour of which all sums are still there."""
    return int(now - KEPT_SECONDS + _MARGIN_SECONDS) // SECONDS_PER_HOUR + 1


@dataclass(slots=True)
class OnTheWay:
    """Records that were settled and are, or were, in no window."""

    outbox: list[Waiting] = field(default_factory=list)
    refused: list[Waiting] = field(default_factory=list)
    dropped: list[Waiting] = field(default_factory=list)

    def all(self) -> list[Waiting]:
        """Of all three kinds."""
        return [*self.outbox, *self.refused, *self.dropped]


class GatewayBooks:
    """Reads the gateway's Redis. Methods raise Unavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def hours(
        self, tenant: str | None, from_hour: int, to_hour: int
    ) -> set[TenantHour]:
        """Which hours of whom may have sums, `to_hour` not included."""
        if tenant is not None:
            return {(tenant, hour) for hour in range(from_hour, to_hour)}
        found = map(_SETTLED.fullmatch, await scan(self._redis, "{s*}:settled:*"))
        places = {(it[1], int(it[2])) for it in found if it is not None}
        return {it for it in places if from_hour <= it[1] < to_hour}

    async def settled(self, hours: Iterable[TenantHour]) -> Sums:
        """The sums of these hours."""
        places = sorted(hours)
        replies = await ask_in_turns(
            self._redis,
            (
                ("HGETALL", shards.settled(shards.shard(tenant), tenant, hour))
                for tenant, hour in places
            ),
        )
        sums: Sums = {}
        for (tenant, hour), flat in zip(places, replies, strict=True):
            for name, number in to_fields(flat).items():
                model, _, what = name.decode().rpartition("|")
                row = sums.setdefault(Position(tenant, hour, model), {})
                _add(row, what, int(number))
        return sums

    async def on_the_way(self, numbers: Collection[int]) -> OnTheWay:
        """All records in the streams of these shards."""
        found = OnTheWay()
        for number in numbers:
            # In this order: a record that is refused meanwhile is seen twice, not
            # never; by its id it counts once.
            key = shards.outbox(number)
            found.outbox += [
                to_waiting(number, *entry) async for entry in stream(self._redis, key)
            ]
            key = shards.refused(number)
            found.refused += [
                to_waiting(number, *entry) async for entry in stream(self._redis, key)
            ]
            async for entry_id, flat in stream(self._redis, shards.audit(number)):
                if to_fields(flat)[b"action"].decode() == DISCARD:
                    found.dropped.append(to_waiting(number, entry_id, flat))
        return found


def _add(row: dict[str, int], what: str, number: int) -> None:
    """Add one field: the input of sums is cached and uncached together."""
    match what:
        case "input":
            _plus(row, TokenType.UNCACHED_INPUT, number)
        case "cached_input":
            _plus(row, TokenType.CACHED_INPUT, number)
            _plus(row, TokenType.UNCACHED_INPUT, -number)
        case TokenType.OUTPUT | TokenType.REASONING | "exchanges":
            _plus(row, EXCHANGES if what == EXCHANGES else TokenType(what), number)


def _plus(row: dict[str, int], quantity: str, number: int) -> None:
    row[quantity] = row.get(quantity, 0) + number
