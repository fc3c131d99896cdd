"""The aggregator's side of the books: windows, chunks, lists. Nothing is written."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.bulk import AT_ONCE, ask_in_turns
from tollhouse.adapters.redis.chunks import SENT_SECONDS, Chunks
from tollhouse.adapters.redis.client import Argument, Redis
from tollhouse.adapters.redis.refused import Waiting
from tollhouse.adapters.redis.windows import member
from tollhouse.core.book import Book
from tollhouse.core.chunk import State, Window
from tollhouse.core.provider_books import Kept
from tollhouse.core.reconciliation import EXCHANGES, Listed
from tollhouse.core.usage import UsageKind
from tollhouse.core.windows import BILLED, Position, TokenType

_FIELDS = ("total", "sealed", "accepted", "parked", "discarded", "seq", "open")
_EXCHANGES = ("final", "partial", "abandoned")
_LAST_HOUR = 9_999_999

ListedChunks = dict[Window, list[Listed]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is kept of one row, but for its chunks."""

    counted: Mapping[str, int]
    books: Mapping[TokenType, Book]
    due: float | None
    is_listed: bool


class BillingBooks:
    """Reads the billing Redis. Methods raise Unavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._chunks = Chunks(redis)

    async def places(
        self, tenant: str | None, from_hour: int, to_hour: int = _LAST_HOUR
    ) -> list[Position]:
        """The rows that are listed, and those in line to be sealed."""
        tenants = [tenant] if tenant is not None else await self._tenants()
        replies = await ask_in_turns(
            self._redis,
            (
                (
                    "ZRANGEBYLEX",
                    billing_keys.of_shard(billing_keys.shard(name), "rows"),
                    f"[{name}|{from_hour:07d}|",
                    f"({name}|{to_hour:07d}|",
                )
                for name in tenants
            ),
        )
        replies += await ask_in_turns(
            self._redis,
            (
                ("ZRANGE", billing_keys.of_shard(number, "unsealed"), 0, -1)
                for number in _shards(tenant)
            ),
        )
        found = {Position.parse(it.decode()) for names in replies for it in names}
        return sorted(
            it
            for it in found
            if tenant in (None, it.tenant) and from_hour <= it.hour < to_hour
        )

    async def rows(self, places: Sequence[Position]) -> list[Row]:
        """What is kept of each row."""
        commands: list[Sequence[Argument]] = []
        for place in places:
            row = (place.tenant, place.model, place.hour)
            name = billing_keys.row_name(place.tenant, place.hour, place.model)
            number = billing_keys.shard(place.tenant)
            commands.append(
                ("HMGET", billing_keys.exchanges(*row), *_EXCHANGES),
            )
            commands += (("HMGET", key, *_FIELDS) for key in billing_keys.windows(*row))
            # Behind the windows: sealed meanwhile, these differ in the next reading.
            commands += (
                ("ZSCORE", billing_keys.of_shard(number, it), name)
                for it in ("unsealed", "rows")
            )
        replies = await ask_in_turns(self._redis, commands)
        step = 3 + len(TokenType)
        return [_row(replies[at : at + step]) for at in range(0, len(replies), step)]

    async def listed(self, tenant: str | None, state: State) -> ListedChunks:
        """The chunks in the lists of open, or of parked, ones."""
        replies = await ask_in_turns(
            self._redis,
            (
                ("ZRANGE", billing_keys.of_shard(number, state.value), 0, -1)
                for number in _shards(tenant)
            ),
        )
        ids = [id_ for names in replies for id_ in names]
        found: ListedChunks = {}
        for start in range(0, len(ids), AT_ONCE):
            for stored in await self._chunks.read(ids[start : start + AT_ONCE]):
                chunk = stored.chunk
                found.setdefault(chunk.window, []).append(
                    Listed(chunk.seq, chunk.value, stored.progress.state)
                )
        return found

    async def listed_places(self, tenant: str | None) -> set[Position]:
        """The rows that have chunks in these lists."""
        replies = await ask_in_turns(
            self._redis,
            (
                ("ZRANGE", billing_keys.of_shard(number, state.value), 0, -1)
                for number in _shards(tenant)
                for state in (State.OPEN, State.PARKED)
            ),
        )
        names = {it.decode().rpartition("|")[0] for ids in replies for it in ids}
        windows = map(Window.parse, names)
        return {Position(it.tenant, it.hour, it.model) for it in windows}

    async def seen(self, waiting: Sequence[Waiting]) -> list[bool]:
        """Whether each record is in the windows already."""
        asked = [it for it in waiting if it.created_hour is not None and it.place]
        replies = await ask_in_turns(
            self._redis,
            (
                (
                    "SISMEMBER",
                    billing_keys.seen(billing_keys.shard(_tenant(it)), _hour(it)),
                    member(it.record_id, _kind(it)),
                )
                for it in asked
            ),
        )
        known = {
            (it.shard, it.entry_id)
            for it, reply in zip(asked, replies, strict=True)
            if reply
        }
        return [(it.shard, it.entry_id) in known for it in waiting]

    async def may_have_records(self, hours: Mapping[str, int]) -> set[str]:
        """Those of these exchanges, id → hour it was made in, that have a record.

        With them those of hours whose ids are forgotten: nobody can tell any more.
        """
        if not hours:
            return set()
        shards = _shards(None)
        closed = await ask_in_turns(
            self._redis,
            (("GET", billing_keys.of_shard(number, "closed")) for number in shards),
        )
        last_closed = max(int(it or -1) for it in closed)
        ids = [id_ for id_ in hours for _ in shards]
        replies = await ask_in_turns(
            self._redis,
            (
                (
                    "SISMEMBER",
                    billing_keys.seen(number, hour),
                    member(id_, UsageKind.ABANDONED),
                )
                for id_, hour in hours.items()
                for number in shards
            ),
        )
        found = {id_ for id_, reply in zip(ids, replies, strict=True) if reply}
        return found | {id_ for id_, hour in hours.items() if hour <= last_closed}

    async def chunks(
        self, books: Iterable[tuple[Window, Book]], now: float
    ) -> dict[Window, dict[int, Kept]]:
        """All chunks of these windows that are kept, by `seq`."""
        wanted = [
            (window, seq)
            for window, book in books
            for seq in range(1, book.last_seq + 1)
        ]
        found: dict[Window, dict[int, Kept]] = {}
        for start in range(0, len(wanted), AT_ONCE):
            part = wanted[start : start + AT_ONCE]
            ids = [f"{window.name}|{seq}".encode() for window, seq in part]
            lives = await ask_in_turns(
                self._redis, (("TTL", billing_keys.chunk(*it)) for it in part)
            )
            left = dict(zip(ids, lives, strict=True))
            for stored in await self._chunks.read(ids):
                chunk, is_sent = stored.chunk, stored.progress.state is State.SENT
                # A sent chunk was given SENT_SECONDS to live when it was.
                gone = SENT_SECONDS - left[chunk.id.encode()]
                kept = Kept(chunk, stored.progress, now - gone if is_sent else 0.0)
                found.setdefault(chunk.window, {})[chunk.seq] = kept
        return found

    async def _tenants(self) -> list[str]:
        replies = await ask_in_turns(
            self._redis,
            (
                ("ZRANGE", billing_keys.of_shard(number, "tenants"), 0, -1)
                for number in _shards(None)
            ),
        )
        return sorted(name.decode() for names in replies for name in names)


def _shards(tenant: str | None) -> Collection[int]:
    if tenant is None:
        return range(billing_keys.BILLING_SHARDS)
    return [billing_keys.shard(tenant)]


def _row(replies: Sequence[Sequence[bytes | None] | bytes | None]) -> Row:
    kinds, *windows, due, listed = replies
    books = {}
    for token_type, values in zip(TokenType, windows, strict=True):
        total, sealed, accepted, parked, discarded, seq, open_ = (
            int(it or 0) for it in values or ()
        )
        books[token_type] = Book(
            total=total,
            sealed=sealed,
            accepted=accepted,
            parked=parked,
            discarded=discarded,
            last_seq=seq,
            open_seq=open_,
        )
    counted: dict[str, int] = {it: books[it].total for it in TokenType}
    counted[EXCHANGES] = sum(int(it or 0) for it in kinds or ())
    return Row(
        counted=counted,
        books={it: books[it] for it in BILLED},
        due=None if due is None else float(due),  # type: ignore[arg-type]
        is_listed=listed is not None,
    )


def _tenant(it: Waiting) -> str:
    return it.place.tenant if it.place else ""


def _hour(it: Waiting) -> int:
    return it.created_hour or 0


def _kind(it: Waiting) -> UsageKind:
    is_adjustment = it.kind == UsageKind.ADJUSTMENT
    return UsageKind.ADJUSTMENT if is_adjustment else UsageKind.FINAL
