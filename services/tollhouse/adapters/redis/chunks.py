"""Chunks in Redis: sealed from windows, sent, concluded; each step one script.

Whoever seals and ships a shard holds its lease. Two at once do no harm: a script does
nothing where the chunk is not what its caller had read, and says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.asking import ask, ask_scripts
from tollhouse.adapters.redis.client import Argument, Redis, Run, Script
from tollhouse.core.chunk import (
    Account,
    Chunk,
    Progress,
    State,
    Window,
    identifier,
    parse_id,
    timestamp,
)
from tollhouse.core.meter import event_name
from tollhouse.core.windows import BILLED, Position

SENT_SECONDS = 40 * 24 * 3600
"""How long a chunk that is over is kept: longer than Stripe takes corrections of it."""

_seal, _begin = Script.load("seal.lua"), Script.load("begin.lua")
_conclude, _reject = Script.load("conclude.lua"), Script.load("reject.lua")

_FIELDS = (
    *("value", "timestamp", "identifier", "event_name", "provider", "customer"),
    *("state", "attempts", "doubt_at", "doubted", "verify_at", "reason"),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A chunk and how far it is."""

    chunk: Chunk
    progress: Progress


class Chunks:
    """The chunks of all shards. Methods raise Unavailable; times are Unix seconds."""

    def __init__(self, redis: Redis, *, deployment: str = "tollhouse") -> None:
        """`deployment` tells gateways apart that share an account at the provider."""
        self._redis = redis
        self._deployment = deployment

    async def due_rows(
        self, shards: Sequence[int], now: int, limit: int
    ) -> list[Position]:
        """Rows to be sealed by now, up to `limit` per shard, longest due first."""
        return [
            Position.parse(name.decode())
            for name in await self._due(shards, "unsealed", now, limit)
        ]

    async def seal(
        self, row: Position, account: Account, *, now: int, next_due: int
    ) -> str:
        """Freeze what the row's windows have not shipped; letters as seal.lua says."""
        windows = [Window(row.tenant, row.model, it, row.hour) for it in BILLED]
        keys = [billing_keys.window(it) for it in windows]
        numbers = await ask(self._redis, [("HGET", key, "seq") for key in keys])
        seqs = [int(number or 0) + 1 for number in numbers]
        shard = billing_keys.shard(row.tenant)
        arguments: list[Argument] = []
        chunk_keys: list[str] = []
        for window, key, seq in zip(windows, keys, seqs, strict=True):
            id_ = identifier(self._deployment, shard, window, seq)
            chunk_keys += (key, billing_keys.chunk(window, seq))
            chunk_keys.append(billing_keys.identifier(shard, id_))
            arguments += (window.name, seq, timestamp(window.hour, seq), id_)
            arguments.append(event_name(window.model, window.token_type))
            arguments += (account.provider, account.customer)
        (letters,) = await ask_scripts(
            self._redis, [self._sealing(row, now, next_due, chunk_keys, arguments)]
        )
        return str(letters.decode())

    async def postpone(self, row: Position, *, now: int, next_due: int) -> None:
        """Leave a row that can't be sealed for later."""
        await ask_scripts(self._redis, [self._sealing(row, now, next_due, [], [])])

    def _sealing(
        self,
        row: Position,
        now: int,
        next_due: int,
        keys: list[str],
        arguments: list[Argument],
    ) -> Run:
        shard = billing_keys.shard(row.tenant)
        zsets = [billing_keys.of_shard(shard, name) for name in ("unsealed", "open")]
        name = billing_keys.row_name(row.tenant, row.hour, row.model)
        return _seal, zsets + keys, [name, now, next_due, SENT_SECONDS, *arguments]

    async def due(self, shards: Sequence[int], now: float, limit: int) -> list[Stored]:
        """Open chunks to be looked at by now, up to `limit` per shard."""
        return await self.read(await self._due(shards, "open", now, limit))

    async def _due(
        self, shards: Sequence[int], name: str, now: float, limit: int
    ) -> list[bytes]:
        looks = [
            (
                *("ZRANGEBYSCORE", billing_keys.of_shard(shard, name)),
                *("-inf", _score(now), "LIMIT", 0, limit),
            )
            for shard in shards
        ]
        return [it for found in await ask(self._redis, looks) for it in found]

    async def read(self, ids: Sequence[bytes]) -> list[Stored]:
        """Chunks by id; those that are gone are left out."""
        looks = []
        for id_ in ids:
            window, seq = parse_id(id_.decode())
            looks.append(("HMGET", billing_keys.chunk(window, seq), *_FIELDS))
        replies = await ask(self._redis, looks)
        return [
            _stored(id_.decode(), fields)
            for id_, fields in zip(ids, replies, strict=True)
            if fields[0] is not None
        ]

    async def begin(self, stored: Stored, *, now: int, until: float) -> Stored | None:
        """Note an attempt before it is made; None: another has it.

        When nobody concludes it, it is looked at again `until` then.
        """
        chunk, progress = stored.chunk, stored.progress
        keys = [_key(chunk), _of(chunk, "open")]
        arguments: list[Argument] = [*(chunk.id, progress.attempts, now, _score(until))]
        (reply,) = await ask_scripts(self._redis, [(_begin, keys, arguments)])
        return Stored(chunk, progress.begun(now)) if reply else None

    async def conclude(
        self,
        stored: Stored,
        decide: Callable[[Progress], Progress],
        *,
        now: int,
        look_at: float,
    ) -> Progress:
        """Write what becomes of an open chunk; `look_at` it again if it stays open.

        Decides anew where another shipper changed it meanwhile.
        """
        chunk, progress = stored.chunk, stored.progress
        keys = [_key(chunk), *(_of(chunk, it) for it in ("open", "parked"))]
        keys.append(billing_keys.window(chunk.window))
        while progress.state is State.OPEN:
            after = decide(progress)
            arguments: list[Argument] = [
                *(chunk.id, progress.attempts, progress.verify_at, now),
                *(
                    _score(look_at),
                    SENT_SECONDS,
                    chunk.seq,
                    after.state.value,
                    after.doubt_at,
                ),
                *(after.doubted, after.verify_at, after.reason),
            ]
            (reply,) = await ask_scripts(self._redis, [(_conclude, keys, arguments)])
            if reply:
                return after
            found = await self.read([chunk.id.encode()])
            if not found:
                break
            progress = found[0].progress
        return progress

    async def others(self, chunk: Chunk) -> int:
        """What the provider should have for the chunk's minute without the chunk."""
        key = billing_keys.window(chunk.window)
        (last,) = await ask(self._redis, [("HGET", key, "seq")])
        seqs = range((chunk.seq - 1) % 60 + 1, int(last or 0) + 1, 60)
        found = await self.read(
            [f"{chunk.window.name}|{seq}".encode() for seq in seqs if seq != chunk.seq]
        )
        return sum(it.chunk.value for it in found if it.progress.state is State.SENT)

    async def reject(self, identifier_: str, code: str, *, now: int) -> str | None:
        """Park what the provider took and did not count; the chunk's id if it was so.

        None: the identifier is not ours, or it is parked already.
        """
        parts = identifier_.split("_")
        if len(parts) != 3 or not parts[1].isdecimal():  # noqa: PLR2004
            return None
        key = billing_keys.identifier(int(parts[1]), identifier_)
        (id_,) = await ask(self._redis, [("GET", key)])
        found = await self.read([id_]) if id_ is not None else []
        if not found:
            return None
        chunk = found[0].chunk
        keys = [_key(chunk), *(_of(chunk, it) for it in ("open", "parked"))]
        keys.append(billing_keys.window(chunk.window))
        arguments: list[Argument] = [chunk.id, now, code, chunk.seq]
        (reply,) = await ask_scripts(self._redis, [(_reject, keys, arguments)])
        return chunk.id if reply else None


def _key(chunk: Chunk) -> str:
    return billing_keys.chunk(chunk.window, chunk.seq)


def _of(chunk: Chunk, name: str) -> str:
    return billing_keys.of_shard(billing_keys.shard(chunk.window.tenant), name)


def _score(seconds: float) -> str:
    return f"{seconds:.3f}"


def _stored(id_: str, fields: Sequence[bytes]) -> Stored:
    window, seq = parse_id(id_)
    values = dict(zip(_FIELDS, (it.decode() for it in fields), strict=True))
    chunk = Chunk(
        window=window,
        seq=seq,
        value=int(values["value"]),
        timestamp=int(values["timestamp"]),
        identifier=values["identifier"],
        event_name=values["event_name"],
        account=Account(values["provider"], values["customer"]),
    )
    progress = Progress(
        state=State(values["state"]),
        attempts=int(values["attempts"]),
        doubt_at=int(values["doubt_at"]),
        doubted=int(values["doubted"]),
        verify_at=int(values["verify_at"]),
        reason=values["reason"],
    )
    return Stored(chunk, progress)
