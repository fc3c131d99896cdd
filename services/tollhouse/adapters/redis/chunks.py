"""Chunks in Redis: sealed from windows, sent, concluded; each step one script.

Whoever seals and ships a shard holds its lease. Two at once do no harm: a script does
nothing where the chunk is not what its caller had read, and says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.asking import ask, ask_scripts
from tollhouse.adapters.redis.client import Argument, Redis, Run, Script
from tollhouse.core.chunk import (
    Account,
    Chunk,
    Progress,
    Rejection,
    State,
    Window,
    identifier,
    parse_id,
    rejected,
    timestamp,
)
from tollhouse.core.meter import event_name
from tollhouse.core.trace_context import parse_traceparent
from tollhouse.core.windows import BILLED, Position

SENT_SECONDS = 40 * 24 * 3600
"""How long a chunk that is over is kept: longer than Stripe takes corrections of it."""

_seal, _begin = Script.load("seal.lua"), Script.load("begin.lua")
_conclude, _reject = Script.load("conclude.lua"), Script.load("reject.lua")

_NUMBERS = ("attempts", "doubt_at", "doubted", "begun_at", "verify_at", "absent_at")
_FIELDS = (
    *("value", "timestamp", "identifier", "event_name", "provider", "customer"),
    *("state", "reason", *_NUMBERS, "trace"),
)
_BROKEN_SECONDS = 3600

_log = structlog.get_logger()


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
        found = await self._due(shards, "unsealed", now, limit)
        rows = (_row(name) for names in found for name in names)
        return [it for it in rows if it is not None]

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
            arguments.append(
                event_name(window.model, window.token_type, self._deployment)
            )
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
        listed = await self._due(shards, "open", now, limit)
        found = await self.read([id_ for ids in listed for id_ in ids])
        readable = {it.chunk.id.encode() for it in found}
        later = _score(now + _BROKEN_SECONDS)
        # Behind those that can be read: it must not be the first in line for ever.
        broken = [
            ("ZADD", billing_keys.of_shard(shard, "open"), "XX", later, id_)
            for shard, ids in zip(shards, listed, strict=True)
            for id_ in ids
            if id_ not in readable
        ]
        await ask(self._redis, broken)
        return found

    async def _due(
        self, shards: Sequence[int], name: str, now: float, limit: int
    ) -> list[list[bytes]]:
        return await ask(
            self._redis,
            [
                (
                    *("ZRANGEBYSCORE", billing_keys.of_shard(shard, name)),
                    *("-inf", _score(now), "LIMIT", 0, limit),
                )
                for shard in shards
            ],
        )

    async def read(self, ids: Sequence[bytes]) -> list[Stored]:
        """Chunks by id; what is gone or can't be read is left out."""
        places = [(id_, place) for id_ in ids if (place := _place(id_)) is not None]
        replies = await ask(
            self._redis,
            [("HMGET", billing_keys.chunk(*place), *_FIELDS) for _, place in places],
        )
        found = (
            _stored(id_, place, fields)
            for (id_, place), fields in zip(places, replies, strict=True)
        )
        return [it for it in found if it is not None]

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
                *(after.doubted, after.verify_at, after.absent_at, after.reason),
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

    async def reject(self, rejection: Rejection, *, now: int) -> Stored | None:
        """Take in what the provider did not count after all; the chunk as it is then.

        None: it is not ours, or it is parked already.
        """
        parts = rejection.identifier.split("_")
        if len(parts) != 3 or not parts[1].isdecimal():  # noqa: PLR2004
            return None
        key = billing_keys.identifier(int(parts[1]), rejection.identifier)
        (id_,) = await ask(self._redis, [("GET", key)])
        while id_ is not None and (found := await self.read([id_])):
            chunk, progress = found[0].chunk, found[0].progress
            if progress.state not in (State.OPEN, State.SENT):
                return None
            after = rejected(
                progress, number=rejection.number, code=rejection.code, now=now
            )
            keys = [_key(chunk), *(_of(chunk, it) for it in ("open", "parked"))]
            keys.append(billing_keys.window(chunk.window))
            arguments: list[Argument] = [
                *(chunk.id, progress.state.value, progress.attempts, now, chunk.seq),
                *(after.state.value, after.verify_at, after.reason),
            ]
            (reply,) = await ask_scripts(self._redis, [(_reject, keys, arguments)])
            if reply:
                return Stored(chunk, after)
        return None


def _key(chunk: Chunk) -> str:
    return billing_keys.chunk(chunk.window, chunk.seq)


def _of(chunk: Chunk, name: str) -> str:
    return billing_keys.of_shard(billing_keys.shard(chunk.window.tenant), name)


def _row(name: bytes) -> Position | None:
    try:
        return Position.parse(name.decode())
    except ValueError:
        _log.error("row.unreadable", row=repr(name))
        return None


def _score(seconds: float) -> str:
    return f"{seconds:.3f}"


def _place(id_: bytes) -> tuple[Window, int] | None:
    try:
        return parse_id(id_.decode())
    except ValueError:
        _log.error("chunk.unreadable", chunk=repr(id_))
        return None


def _stored(
    id_: bytes, place: tuple[Window, int], fields: Sequence[bytes | None]
) -> Stored | None:
    if fields[0] is None:
        return None
    values = {
        name: value.decode()
        for name, value in zip(_FIELDS, fields, strict=True)
        if value is not None
    }
    try:
        chunk = Chunk(
            window=place[0],
            seq=place[1],
            value=int(values["value"]),
            timestamp=int(values["timestamp"]),
            identifier=values["identifier"],
            event_name=values["event_name"],
            account=Account(values["provider"], values["customer"]),
            trace=parse_traceparent(values.get("trace")),
        )
        progress = Progress(
            state=State(values["state"]),
            reason=values["reason"],
            **{name: int(values[name]) for name in _NUMBERS},
        )
    except (KeyError, ValueError):
        # Somebody's hand: it must not stand in the way of all others.
        _log.error("chunk.unreadable", chunk=id_.decode())
        return None
    return Stored(chunk, progress)
