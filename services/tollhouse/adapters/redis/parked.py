"""Parked chunks, and what operators decide about them; each decision one script."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.asking import ask, ask_scripts
from tollhouse.adapters.redis.bulk import AT_ONCE, ask_in_turns, stream
from tollhouse.adapters.redis.chunks import SENT_SECONDS, Chunks, Stored
from tollhouse.adapters.redis.client import Argument, Redis, Script
from tollhouse.adapters.redis.refused import Decision, to_fields
from tollhouse.core.chunk import TRUSTED_SECONDS, parse_id

RETRY, RESEAL, DISCARD, SETTLE = "retry", "reseal", "discard", "settle"

_resolve = Script.load("resolve.lua")
_PARTS_OF_IDENTIFIER = 3


class Resolved(Enum):
    """What became of a decision; the values are resolve.lua's replies."""

    DONE = 1
    NOT_PARKED = 0
    IN_DOUBT = -1
    """The provider may have it: sealed anew it could be billed twice."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked chunk, and since when (Unix seconds)."""

    stored: Stored
    parked_at: float


class ParkedChunks:
    """Those of all shards. Methods raise Unavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._chunks = Chunks(redis)

    async def all(self, tenant: str | None = None) -> list[Parked]:
        """All, or a tenant's, longest parked first."""
        number = None if tenant is None else billing_keys.shard(tenant)
        shards = range(billing_keys.BILLING_SHARDS) if number is None else [number]
        replies = await ask_in_turns(
            self._redis,
            (
                ("ZRANGE", billing_keys.of_shard(it, "parked"), 0, -1, "WITHSCORES")
                for it in shards
            ),
        )
        times = {
            id_: float(score)
            for flat in replies
            for id_, score in zip(flat[::2], flat[1::2], strict=True)
        }
        found = [
            Parked(stored, times[stored.chunk.id.encode()])
            for stored in await self._read(list(times))
            if tenant in (None, stored.chunk.window.tenant)
        ]
        return sorted(found, key=lambda it: (it.parked_at, it.stored.chunk.id))

    async def find(self, name: str) -> Stored | None:
        """A chunk, parked or not, by its id or its identifier."""
        id_: bytes | None = name.encode()
        parts = name.split("_")
        if len(parts) == _PARTS_OF_IDENTIFIER and parts[1].isdecimal():
            key = billing_keys.identifier(int(parts[1]), name)
            (id_,) = await ask(self._redis, [("GET", key)])
        elif not _is_id(name):
            return None
        found = [] if id_ is None else await self._chunks.read([id_])
        return found[0] if found else None

    async def resolve(
        self,
        stored: Stored,
        action: str,
        *,
        who: str,
        why: str,
        now: int,
        tokens: int = 0,
    ) -> Resolved:
        """Do RETRY, RESEAL, DISCARD or SETTLE with a parked chunk.

        `tokens`, of SETTLE: what the provider has of the chunk.
        """
        chunk = stored.chunk
        window = chunk.window
        number = billing_keys.shard(window.tenant)
        keys = [
            billing_keys.chunk(window, chunk.seq),
            *(
                billing_keys.of_shard(number, name)
                for name in ("open", "parked", "unsealed")
            ),
            billing_keys.window(window),
            billing_keys.of_shard(number, "audit"),
        ]
        row = billing_keys.row_name(window.tenant, window.hour, window.model)
        arguments: list[Argument] = [chunk.id, action, now, row, who, why]
        arguments += (SENT_SECONDS, TRUSTED_SECONDS, tokens)
        (reply,) = await ask_scripts(self._redis, [(_resolve, keys, arguments)])
        return Resolved(reply)

    async def history(self) -> list[Decision]:
        """What was decided, in no order."""
        decisions = []
        for number in range(billing_keys.BILLING_SHARDS):
            key = billing_keys.of_shard(number, "audit")
            async for _, flat in stream(self._redis, key):
                texts = {
                    name: value.decode(errors="replace")
                    for name, value in to_fields(flat).items()
                }
                decisions.append(
                    Decision(
                        at=int(texts[b"at"]),
                        action=texts[b"action"],
                        subject=texts[b"chunk"],
                        tenant=texts[b"chunk"].partition("|")[0],
                        who=texts[b"who"],
                        why=texts[b"why"],
                        was=texts[b"was"],
                        value=int(texts[b"value"]),
                        settled=int(texts[b"tokens"]) if b"tokens" in texts else None,
                    )
                )
        return decisions

    async def _read(self, ids: Sequence[bytes]) -> list[Stored]:
        found: list[Stored] = []
        for start in range(0, len(ids), AT_ONCE):
            found += await self._chunks.read(ids[start : start + AT_ONCE])
        return found


def _is_id(name: str) -> bool:
    try:
        parse_id(name)
    except ValueError:
        return False
    return True
