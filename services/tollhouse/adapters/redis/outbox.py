"""The outbox in Redis: usage records that the aggregator does not have yet.

SETTLE and REAP write an entry to `{s17}:outbox` in the same step that settles the
exchange. Relays read these streams as consumers of one group: an entry is handed to
one relay and stays pending until `forget`; what a dead relay held, others `claim`.
What the aggregator refuses moves to `{s17}:parked` with the reason.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tollhouse.adapters.redis.asking import BUDGET_SECONDS, ask, ask_scripts
from tollhouse.adapters.redis.client import (
    Argument,
    Redis,
    RedisReplyError,
    Run,
    Script,
)
from tollhouse.adapters.redis.shards import SHARDS, outbox, refused
from tollhouse.core.problems import Unavailable

GROUP = "relay"

FIRST = b"0-0"
"""Before every entry: where a walk through pending entries starts and ends."""

_OUTBOX_ID = "th:outbox"

_forget = Script.load("ack.lua")


@dataclass(frozen=True, slots=True)
class Entry:
    """One outbox entry; `fields` is None when it was deleted but is still pending."""

    shard: int
    entry_id: bytes
    fields: Mapping[bytes, bytes] | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a look for stale entries found.

    `next_id` is where to look on, FIRST when the whole shard was seen. Redis 6.2
    names no id for entries that were deleted: `has_deleted` then says to read one's
    own pending entries, which does.
    """

    shard: int
    entries: list[Entry]
    next_id: bytes
    has_deleted: bool


@dataclass(frozen=True, slots=True)
class Leaving:
    """Entries of one shard that have their answer, 2,000 at most.

    `done` are with the aggregator; `refused`, entry id → reason, are to be parked.
    """

    done: list[bytes] = field(default_factory=list)
    refused: dict[bytes, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """How much waits in all shards, and since when.

    `outbox_id` is the same for all that read these streams. `refused`: entries that the
    aggregator refused. Unix times: of the oldest entry, and of the oldest that may
    still be sent, refused ones included; now if there is none.
    """

    outbox_id: str
    entries: int
    refused: int
    oldest_ms: int
    kept_from_ms: int
    now_ms: int


class Outbox:
    """The outbox streams, as one consumer sees them.

    `consumer` must be the same name after a restart, and no other process's. Methods
    raise Unavailable when Redis did not answer; what was handed out by a lost answer
    is then among the consumer's pending entries.
    """

    def __init__(self, redis: Redis, consumer: str) -> None:
        self._redis = redis
        self._consumer = consumer

    async def read_new(self, shards: Sequence[int], count: int) -> list[list[Entry]]:
        """Take up to `count` entries per shard that no relay has seen, oldest first."""
        return await self._read([(shard, b">") for shard in shards], count)

    async def read_pending(
        self, places: Sequence[tuple[int, bytes]], count: int
    ) -> list[list[Entry]]:
        """Read up to `count` own pending entries per (shard, id), behind that id."""
        return await self._read(places, count)

    async def claim(
        self, places: Sequence[tuple[int, bytes]], count: int, idle_ms: int
    ) -> list[Claimed]:
        """Take over what any consumer has held for `idle_ms`, from each (shard, id)."""
        who, how = (GROUP, self._consumer), ("COUNT", count)
        replies = await self._call(
            (shard, ["XAUTOCLAIM", outbox(shard), *who, idle_ms, start, *how])
            for shard, start in places
        )
        return [
            _claimed(shard, reply)
            for (shard, _), reply in zip(places, replies, strict=True)
        ]

    async def standing(self) -> Standing:
        """Look how much waits."""
        shards = range(SHARDS)
        _, id_, (seconds, microseconds), *found = await ask(
            self._redis,
            [
                ("SET", _OUTBOX_ID, str(uuid.uuid4()), "NX"),
                ("GET", _OUTBOX_ID),
                # Before the looks: what is written behind them is younger than this.
                ("TIME",),
                *(("XLEN", outbox(it)) for it in shards),
                *(("XLEN", refused(it)) for it in shards),
                *(("XRANGE", outbox(it), "-", "+", "COUNT", 1) for it in shards),
                *(("XRANGE", refused(it), "-", "+", "COUNT", 1) for it in shards),
            ],
        )
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        entries, aside, first, first_aside = (
            found[at : at + SHARDS] for at in range(0, 4 * SHARDS, SHARDS)
        )
        oldest_ms = min([now_ms, *_written_ms(first)])
        return Standing(
            outbox_id=id_.decode(),
            entries=sum(entries),
            refused=sum(aside),
            oldest_ms=oldest_ms,
            kept_from_ms=min([oldest_ms, *_written_ms(first_aside)]),
            now_ms=now_ms,
        )

    async def forget(self, leaving: Mapping[int, Leaving]) -> None:
        """Let entries leave, by shard; harmless when repeated."""
        runs: list[Run] = []
        for shard, entries in leaving.items():
            arguments: list[Argument] = [GROUP, len(entries.refused)]
            for entry in entries.refused.items():
                arguments += entry
            arguments += entries.done
            runs.append((_forget, [outbox(shard), refused(shard)], arguments))
        await ask_scripts(self._redis, runs)

    async def _read(
        self, places: Sequence[tuple[int, bytes]], count: int
    ) -> list[list[Entry]]:
        how = ("GROUP", GROUP, self._consumer, "COUNT", count)
        replies = await self._call(
            (shard, ["XREADGROUP", *how, "STREAMS", outbox(shard), after])
            for shard, after in places
        )
        return [
            _entries(shard, reply[0][1]) if reply else []
            for (shard, _), reply in zip(places, replies, strict=True)
        ]

    async def _call(self, commands: Iterable[tuple[int, list[Any]]]) -> list[Any]:
        """Send one command per shard; make the groups that are missing and repeat."""
        wanted = list(commands)
        replies = await self._send([command for _, command in wanted])
        missing = [at for at, reply in enumerate(replies) if _is_group_missing(reply)]
        if missing:
            # From the first entry on: what was written before the group counts too.
            made = await self._send(
                ["XGROUP", "CREATE", outbox(wanted[at][0]), GROUP, FIRST, "MKSTREAM"]
                for at in missing
            )
            again = await self._send(wanted[at][1] for at in missing)
            for reply in made:
                _refuse(reply, but="BUSYGROUP")  # another relay made it meanwhile
            for at, reply in zip(missing, again, strict=True):
                replies[at] = reply
        for reply in replies:
            _refuse(reply)
        return replies

    async def _send(self, commands: Iterable[list[Any]]) -> list[Any]:
        return await self._redis.call_many(
            list(commands), budget_seconds=BUDGET_SECONDS
        )


def _written_ms(firsts: Iterable[list[Any]]) -> list[int]:
    """When the first entries of streams were written, by their ids."""
    return [int(it[0][0].partition(b"-")[0]) for it in firsts if it]


def _is_group_missing(reply: object) -> bool:
    return isinstance(reply, RedisReplyError) and reply.code == "NOGROUP"


def _refuse(reply: object, *, but: str | None = None) -> None:
    if isinstance(reply, RedisReplyError) and reply.code != but:
        raise Unavailable(f"Redis answered {reply.code}") from reply


def _entries(shard: int, items: Sequence[Any]) -> list[Entry]:
    return [Entry(shard, entry_id, _fields(flat)) for entry_id, flat in items]


def _fields(flat: Sequence[bytes] | None) -> dict[bytes, bytes] | None:
    if flat is None:
        return None
    pairs = iter(flat)
    return dict(zip(pairs, pairs, strict=True))


def _claimed(shard: int, reply: Sequence[Any]) -> Claimed:
    # Redis 7.0 adds a third element, the deleted ids, and forgets them by itself.
    next_id, items = reply[0], reply[1]
    entries = _entries(shard, [item for item in items if item is not None])
    return Claimed(shard, entries, next_id, has_deleted=None in items)
