"""Billing windows in Redis: each usage record is added once, however often it comes.

**How long ids are remembered.** A record's id is looked up in the set of the hour it
was made in, at 64 bytes each: 100 records/s need 0.55 GB a day. `adapters.redis.dedupe`
drops a set when it is old enough and closes its hour in the same step: a record of a
closed hour is refused, never added, because whether it was added before can't be known
any more. Its sender parks it.

Windows do not expire: they are what an invoice is made from.
"""

from collections.abc import Callable, Sequence

from tollhouse.adapters.redis import billing_keys
from tollhouse.adapters.redis.asking import ask, ask_scripts
from tollhouse.adapters.redis.client import Argument, Redis, Run, Script
from tollhouse.core.usage import TokenUsage, UsageKind
from tollhouse.core.windows import (
    AS_PROMISED,
    Cadence,
    Position,
    Posting,
    Receipt,
    Rejected,
    TokenType,
    UsageRow,
)

_EXCHANGES = ("final", "partial", "abandoned")
_TENANTS_PER_LOOK = 64
_TOO_OLD = "made too long ago to tell whether it was counted"

_apply = Script.load("apply.lua")


class Windows:
    """The windows of every tenant."""

    def __init__(
        self,
        redis: Redis,
        clock: Callable[[], float],
        cadence: Cadence = AS_PROMISED,
    ) -> None:
        """`clock` gives Unix seconds; `cadence` says when windows are to be sealed."""
        self._redis = redis
        self._clock = clock
        self._cadence = cadence

    async def apply(self, postings: Sequence[Posting]) -> Receipt:
        """Add each posting unless its id was added before; durable on return.

        Raises Unavailable when Redis did not answer for all of them: repeat the whole
        batch, what had been added counts as a duplicate then.
        """
        batches: dict[int, _Batch] = {}
        for posting in postings:
            shard = billing_keys.shard(posting.tenant)
            batch = batches.get(shard)
            if batch is None:
                batch = batches[shard] = _Batch(shard)
            batch.add(posting)
        now = int(self._clock())
        runs = [batch.run(self._cadence, now) for batch in batches.values()]
        replies = await ask_scripts(self._redis, runs)
        receipts = [
            batch.receipt(letters)
            for batch, letters in zip(batches.values(), replies, strict=True)
        ]
        return Receipt(
            applied=sum(receipt.applied for receipt in receipts),
            repeated=tuple(it for receipt in receipts for it in receipt.repeated),
            rejected=tuple(it for receipt in receipts for it in receipt.rejected),
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
            for members in await ask(self._redis, commands):
                places += (Position.parse(it.decode()) for it in members)
            if len(places) >= limit:
                break
        return await self._filled(places[:limit])

    async def _tenants(self) -> list[str]:
        replies = await ask(
            self._redis,
            (
                ["ZRANGE", billing_keys.of_shard(shard, "tenants"), 0, -1]
                for shard in range(billing_keys.BILLING_SHARDS)
            ),
        )
        return sorted(name.decode() for names in replies for name in names)

    async def _filled(self, places: Sequence[Position]) -> list[UsageRow]:
        commands: list[list[Argument]] = []
        for place in places:
            row = (place.tenant, place.model, place.hour)
            commands.append(["HMGET", billing_keys.exchanges(*row), *_EXCHANGES])
            commands += (["HGET", it, "total"] for it in billing_keys.windows(*row))
        replies = await ask(self._redis, commands)
        step = 1 + len(TokenType)
        return [
            _row(place, replies[at], replies[at + 1 : at + step])
            for place, at in zip(places, range(0, len(replies), step), strict=True)
        ]


class _Batch:
    """The postings of one billing shard, laid out for apply.lua."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
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
            member(posting.record_id, posting.kind),
            posting.kind.value,
            usage.input_tokens - usage.cached_input_tokens,
            usage.cached_input_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            posting.trace,
        )

    def run(self, cadence: Cadence, now: int) -> Run:
        names = ("tenants", "rows", "unsealed", "closed", "seen")
        keys = [billing_keys.of_shard(self._shard, name) for name in names]
        arguments: list[Argument] = [len(self._sets), len(self._rows), *self._sets]
        keys += (billing_keys.seen(self._shard, hour) for hour in self._sets)
        for tenant, model, hour in self._rows:
            keys.append(billing_keys.exchanges(tenant, model, hour))
            keys += billing_keys.windows(tenant, model, hour)
            row = billing_keys.row_name(tenant, hour, model)
            arguments += (tenant, row, cadence.due(hour, now))
        return _apply, keys, arguments + self._records

    def receipt(self, letters: bytes) -> Receipt:
        found = list(zip(self._ids, letters, strict=True))
        return Receipt(
            applied=letters.count(b"A"),
            repeated=tuple(id_ for id_, letter in found if letter == ord("D")),
            rejected=tuple(
                Rejected(id_, _TOO_OLD) for id_, letter in found if letter == ord("O")
            ),
        )


def member(record_id: str, kind: UsageKind) -> bytes:
    """The 16 bytes that stand for a record in a seen set.

    An adjustment has the id of its exchange; the version digit (RFC 9562 §4.2), a 7 in
    every exchange id, is an f there.
    """
    digits = record_id[:36].replace("-", "")
    if kind is UsageKind.ADJUSTMENT:
        digits = f"{digits[:12]}f{digits[13:]}"
    return bytes.fromhex(digits)


def _look(
    tenant: str, from_hour: int, to_hour: int, after: Position | None, limit: int
) -> list[Argument]:
    first = f"[{tenant}|{from_hour:07d}|"
    if after is not None and after.tenant == tenant and after.hour >= from_hour:
        first = f"({billing_keys.row_name(after.tenant, after.hour, after.model)}"
    last = f"({tenant}|{to_hour:07d}|"
    key = billing_keys.of_shard(billing_keys.shard(tenant), "rows")
    return ["ZRANGEBYLEX", key, first, last, "LIMIT", 0, limit]


def _row(
    place: Position, kinds: list[bytes | None], totals: list[bytes | None]
) -> UsageRow:
    final, partial, abandoned = (int(number or 0) for number in kinds)
    uncached, cached, output, reasoning = (int(total or 0) for total in totals)
    return UsageRow(
        tenant=place.tenant,
        model=place.model,
        hour=place.hour,
        usage=TokenUsage(
            input_tokens=uncached + cached,
            output_tokens=output,
            cached_input_tokens=cached,
            reasoning_tokens=reasoning,
        ),
        final_exchanges=final,
        partial_exchanges=partial,
        abandoned_exchanges=abandoned,
    )
