"""Billing windows in Redis: each usage record is added once, however often it comes.

Keys, all in the billing shard of the tenant (`b` = crc16 of the tenant mod 16); `hour`
counts hours since 1970:

| key | holds |
|---|---|
| `{b3}:window:<tenant>|<model>|<type>|<hour>` | hash: `total` tokens, `n` records |
| `{b3}:exchanges:<tenant>|<model>|<hour>` | hash: exchanges by kind, adjustments |
| `{b3}:seen:<hour>` | set of the record ids made in that hour, 16 bytes each |
| `{b3}:rows` | zset of `<tenant>|<hour>|<model>`, all score 0: sorted by name |
| `{b3}:tenants` | zset of tenant names, all score 0 |

**How long ids are remembered.** A seen set lives `dedupe_hours` past its hour (Redis
TIME), at 64 bytes a record: 100 records/s need 0.55 GB a day. A record that comes when
its set is closed is refused, never added: whether it was added before can't be known
any more. Its sender parks it. So `dedupe_hours` is the longest outage of the
aggregator after which everything is billed without an operator.

Windows do not expire: they are what an invoice is made from.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from tollhouse.adapters.redis.client import (
    Argument,
    Redis,
    RedisReplyError,
    Run,
    Script,
    run_all,
)
from tollhouse.adapters.redis.shards import crc16
from tollhouse.core.problems import Unavailable
from tollhouse.core.usage import TokenUsage, UsageKind
from tollhouse.core.windows import (
    SECONDS_PER_HOUR,
    Outcome,
    Position,
    Posting,
    Rejected,
    UsageRow,
)

BILLING_SHARDS = 16
"""Fixed for the life of a deployment: another number moves every tenant."""

SERIES = ("input", "cached_input", "output", "reasoning")

_EXCHANGES = ("final", "partial", "abandoned")
_TENANTS_PER_LOOK = 64
_TOO_OLD = "made too long ago to tell whether it was counted"

# The relay behind a call waits without harm; behind a slow fsync it is still worth it.
_BUDGET_SECONDS = 2.0

_apply = Script.load("apply.lua")


class Windows:
    """The windows of every tenant."""

    def __init__(self, redis: Redis, *, dedupe_hours: int) -> None:
        self._redis = redis
        self._dedupe_hours = dedupe_hours

    async def apply(self, postings: Sequence[Posting]) -> Outcome:
        """Add each posting unless its id was added before; durable on return.

        Raises Unavailable when Redis did not answer for all of them: repeat the whole
        batch, what had been added counts as a duplicate then.
        """
        batches: dict[int, _Batch] = {}
        for posting in postings:
            shard = _shard(posting.tenant)
            batch = batches.get(shard)
            if batch is None:
                batch = batches[shard] = _Batch(shard, self._dedupe_hours)
            batch.add(posting)
        runs = [batch.run() for batch in batches.values()]
        try:
            replies = await run_all(self._redis, runs, budget_seconds=_BUDGET_SECONDS)
        except RedisReplyError as error:
            raise Unavailable(f"Redis answered {error.code}") from error
        outcomes = [
            batch.outcome(letters)
            for batch, letters in zip(batches.values(), replies, strict=True)
        ]
        return Outcome(
            applied=sum(outcome.applied for outcome in outcomes),
            duplicates=sum(outcome.duplicates for outcome in outcomes),
            rejected=tuple(it for outcome in outcomes for it in outcome.rejected),
        )

    async def rows(
        self,
        *,
        tenant: str,
        from_hour: int,
        to_hour: int,
        after: Position | None,
        limit: int,
    ) -> list[UsageRow]:
        """List up to `limit` rows behind `after`, sorted by tenant, hour and model.

        `to_hour` is not included; an empty `tenant` means all. Raises Unavailable.
        """
        tenants = [tenant] if tenant else await self._tenants()
        if after is not None:
            tenants = [name for name in tenants if name >= after.tenant]
        places: list[Position] = []
        for start in range(0, len(tenants), _TENANTS_PER_LOOK):
            commands = [
                _look(name, from_hour, to_hour, after, limit)
                for name in tenants[start : start + _TENANTS_PER_LOOK]
            ]
            for members in await self._read(commands):
                places += map(_position, members)
            if len(places) >= limit:
                break
        return await self._filled(places[:limit])

    async def _tenants(self) -> list[str]:
        replies = await self._read(
            ["ZRANGE", f"{{b{shard}}}:tenants", 0, -1]
            for shard in range(BILLING_SHARDS)
        )
        return sorted(name.decode() for names in replies for name in names)

    async def _filled(self, places: Sequence[Position]) -> list[UsageRow]:
        commands: list[list[Argument]] = []
        for place in places:
            exchanges, *windows = _row_keys(place.tenant, place.model, place.hour)
            commands.append(["HMGET", exchanges, *_EXCHANGES])
            commands += (["HGET", window, "total"] for window in windows)
        replies = await self._read(commands)
        step = 1 + len(SERIES)
        return [
            _row(place, replies[at], replies[at + 1 : at + step])
            for place, at in zip(places, range(0, len(replies), step), strict=True)
        ]

    async def _read(self, commands: Iterable[list[Argument]]) -> list[Any]:
        replies = await self._redis.call_many(
            list(commands), budget_seconds=_BUDGET_SECONDS
        )
        for reply in replies:
            if isinstance(reply, RedisReplyError):
                raise Unavailable(f"Redis answered {reply.code}") from reply
        return replies


class _Batch:
    """The postings of one billing shard, laid out for apply.lua."""

    def __init__(self, shard: int, dedupe_hours: int) -> None:
        self._shard = shard
        self._dedupe_hours = dedupe_hours
        self._sets: dict[int, int] = {}
        self._rows: dict[tuple[str, str, int], int] = {}
        self._records: list[Argument] = []
        self._ids: list[str] = []

    def add(self, posting: Posting) -> None:
        sets, rows, usage = self._sets, self._rows, posting.usage
        row = (posting.tenant, posting.model, posting.hour)
        self._ids.append(posting.record_id)
        self._records += (
            sets.setdefault(posting.created_hour, len(sets) + 1),
            rows.setdefault(row, len(rows) + 1),
            _member(posting),
            posting.kind.value,
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
        )

    def run(self) -> Run:
        tag = f"{{b{self._shard}}}"
        kept = self._dedupe_hours + 1
        keys = [f"{tag}:tenants", f"{tag}:rows"]
        arguments: list[Argument] = [len(self._sets), len(self._rows)]
        for hour in self._sets:
            keys.append(f"{tag}:seen:{hour}")
            arguments.append((hour + kept) * SECONDS_PER_HOUR)
        for tenant, model, hour in self._rows:
            keys += _row_keys(tenant, model, hour)
            arguments += (tenant, _row_name(tenant, hour, model))
        return _apply, keys, arguments + self._records

    def outcome(self, letters: bytes) -> Outcome:
        return Outcome(
            applied=letters.count(b"A"),
            duplicates=letters.count(b"D"),
            rejected=tuple(
                Rejected(record_id, _TOO_OLD)
                for record_id, letter in zip(self._ids, letters, strict=True)
                if letter == ord("O")
            ),
        )


@lru_cache(maxsize=65_536)
def _shard(tenant: str) -> int:
    return crc16(tenant.encode()) % BILLING_SHARDS


def _member(posting: Posting) -> bytes:
    """The 16 bytes that stand for a record in a seen set.

    An adjustment has the id of its exchange; the version digit (RFC 9562 §4.2), a 7 in
    every exchange id, is an f there.
    """
    digits = posting.record_id[:36].replace("-", "")
    if posting.kind is UsageKind.ADJUSTMENT:
        digits = f"{digits[:12]}f{digits[13:]}"
    return bytes.fromhex(digits)


def _row_keys(tenant: str, model: str, hour: int) -> list[str]:
    tag = f"{{b{_shard(tenant)}}}"
    keys = [f"{tag}:exchanges:{tenant}|{model}|{hour}"]
    keys += (f"{tag}:window:{tenant}|{model}|{series}|{hour}" for series in SERIES)
    return keys


def _row_name(tenant: str, hour: int, model: str) -> str:
    # Seven digits sort as numbers do until the year 3110.
    return f"{tenant}|{hour:07d}|{model}"


def _position(row_name: bytes) -> Position:
    tenant, hour, model = row_name.decode().split("|")
    return Position(tenant, int(hour), model)


def _look(
    tenant: str, from_hour: int, to_hour: int, after: Position | None, limit: int
) -> list[Argument]:
    first = f"[{tenant}|{from_hour:07d}|"
    if after is not None and after.tenant == tenant and after.hour >= from_hour:
        first = f"({_row_name(after.tenant, after.hour, after.model)}"
    last = f"({tenant}|{to_hour:07d}|"
    key = f"{{b{_shard(tenant)}}}:rows"
    return ["ZRANGEBYLEX", key, first, last, "LIMIT", 0, limit]


def _row(
    place: Position, kinds: list[bytes | None], totals: list[bytes | None]
) -> UsageRow:
    final, partial, abandoned = (int(number or 0) for number in kinds)
    input_, cached, output, reasoning = (int(total or 0) for total in totals)
    return UsageRow(
        tenant=place.tenant,
        model=place.model,
        hour=place.hour,
        usage=TokenUsage(
            input_tokens=input_,
            output_tokens=output,
            cached_input_tokens=cached,
            reasoning_tokens=reasoning,
        ),
        final_exchanges=final,
        partial_exchanges=partial,
        abandoned_exchanges=abandoned,
    )
