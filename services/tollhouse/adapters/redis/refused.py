"""Usage records that the aggregator refused: `{s17}:parked`, for an operator.

What is decided about one, and by whom, is written to `{s17}:audit` in the same step. A
record that is dropped is kept there whole: it was settled, so the books need it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.asking import ask_scripts
from tollhouse.adapters.redis.bulk import stream
from tollhouse.adapters.redis.client import Redis, Run, Script
from tollhouse.core.ids import created_ms
from tollhouse.core.problems import ProtocolError
from tollhouse.core.reconciliation import EXCHANGES
from tollhouse.core.usage import UsageKind, decode_facts
from tollhouse.core.windows import MS_PER_HOUR, Position, TokenType

RETRY, DISCARD = "retry", "discard"

_unpark = Script.load("unpark.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A record in a stream; `place` is None where it can't be read.

    `amounts`: what it adds to each quantity of its row. `created_hour` is None where
    its id tells no time.
    """

    shard: int
    entry_id: bytes
    record_id: str
    kind: int
    created_hour: int | None
    place: Position | None
    amounts: Mapping[str, int]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """An entry of an audit stream: when (Unix seconds), what about what, who, why.

    `value`: tokens it is about; `settled`: those the provider has, where that was said.
    """

    at: int
    action: str
    subject: str
    tenant: str
    who: str
    why: str
    was: str
    value: int
    settled: int | None = None


class Refused:
    """The refused records of all shards. Methods raise Unavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def all(self) -> list[Waiting]:
        """All of them, oldest first in each shard."""
        return [
            to_waiting(number, entry_id, fields)
            for number in range(shards.SHARDS)
            async for entry_id, fields in stream(self._redis, shards.refused(number))
        ]

    async def resolve(
        self, records: Sequence[Waiting], action: str, *, who: str, why: str, now: int
    ) -> list[bool]:
        """Put records back into their outboxes (RETRY) or drop them (DISCARD).

        False for each that somebody else resolved meanwhile.
        """
        runs: list[Run] = [
            (
                _unpark,
                [
                    shards.refused(it.shard),
                    shards.outbox(it.shard),
                    shards.audit(it.shard),
                ],
                [it.entry_id, action, now, who, why],
            )
            for it in records
        ]
        return [bool(reply) for reply in await ask_scripts(self._redis, runs)]

    async def history(self) -> list[Decision]:
        """What was decided, in no order."""
        decisions = []
        for number in range(shards.SHARDS):
            async for entry_id, flat in stream(self._redis, shards.audit(number)):
                fields = to_fields(flat)
                record = to_waiting(number, entry_id, flat)
                decisions.append(
                    Decision(
                        at=int(fields[b"at"]),
                        action=fields[b"action"].decode(),
                        subject=record.record_id,
                        tenant=record.place.tenant if record.place else "",
                        who=fields[b"who"].decode(errors="replace"),
                        why=fields[b"why"].decode(errors="replace"),
                        was=record.reason,
                        value=sum(record.amounts.get(it, 0) for it in _TOKENS),
                    )
                )
        return decisions


_TOKENS = (TokenType.UNCACHED_INPUT, TokenType.CACHED_INPUT, TokenType.OUTPUT)


def to_fields(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Fields of a stream's entry."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def to_waiting(shard: int, entry_id: bytes, flat: Sequence[bytes]) -> Waiting:
    """Read an entry as SETTLE and REAP write it (exchange.lua, `record`).

    Less strict than the way to the aggregator: what was settled counts, fit or not.
    """
    fields = to_fields(flat)
    record_id = fields.get(b"id", b"").decode(errors="replace")
    kind, place, amounts = 0, None, {}
    try:
        kind = int(fields[b"kind"])
        facts = decode_facts(fields[b"facts"])
        hour = int(fields[b"ended_ms"]) // MS_PER_HOUR
        input_, cached = int(fields[b"in"]), int(fields[b"cached"])
        amounts = {
            TokenType.UNCACHED_INPUT: input_ - cached,
            TokenType.CACHED_INPUT: cached,
            TokenType.OUTPUT: int(fields[b"out"]),
            TokenType.REASONING: int(fields[b"reasoning"]),
            EXCHANGES: int(kind != UsageKind.ADJUSTMENT),
        }
        place = Position(facts.tenant, hour, facts.served_model)
    except (KeyError, ValueError, ProtocolError):
        amounts = {}
    try:
        created_hour = created_ms(record_id[:36]) // MS_PER_HOUR
    except ValueError:
        created_hour = None
    return Waiting(
        shard=shard,
        entry_id=entry_id,
        record_id=record_id,
        kind=kind,
        created_hour=created_hour,
        place=place,
        amounts=amounts,
        reason=fields.get(b"reason", b"").decode(errors="replace"),
    )
