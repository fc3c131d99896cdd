"""Usage records made for tests, and the books they should add up to."""

import secrets
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import redis

from tollhouse.adapters.redis.shards import SHARDS, outbox, shard
from tollhouse.adapters.usage_pb import to_pb_record
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Debit, Measure, Scope
from tollhouse.core.usage import Facts
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb

HOUR_MS = 3_600_000

TRACES = (
    "",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "no traceparent",
)
"""What a record may say of its trace; the third is sampled."""
SAMPLED = TRACES[2]

KINDS = {1: "final", 2: "partial", 3: "abandoned"}


@dataclass(frozen=True)
class Record:
    """One usage record, as a settlement writes it."""

    record_id: str
    tenant: str = "acme"
    model: str = "tiny-chat"
    kind: int = 1
    input: int = 10
    output: int = 5
    cached: int = 0
    reasoning: int = 0
    ended_ms: int = 0
    corrects: str = ""
    trace: str = ""

    @classmethod
    def make(cls, *, made_ms: int | None = None, **facts: object) -> "Record":
        made_ms = time.time_ns() // 1_000_000 if made_ms is None else made_ms
        record_id = exchange_id(made_ms, secrets.token_bytes(10))
        known = {"record_id": record_id, "ended_ms": made_ms, **facts}
        return cls(**known)  # type: ignore[arg-type]

    def adjusted(self, **differences: int) -> "Record":
        """The adjustment that corrects this record by signed differences."""
        counts = {"input": 0, "output": 0, "cached": 0, "reasoning": 0, **differences}
        return Record(
            record_id=f"{self.record_id}#adj",
            tenant=self.tenant,
            model=self.model,
            kind=4,
            ended_ms=self.ended_ms,
            corrects=self.record_id,
            trace=self.trace,
            **counts,
        )

    def ending(self, ended_ms: int) -> "Record":
        """The same record with another end."""
        return replace(self, ended_ms=ended_ms)

    def fields(self) -> dict[str, str | int | bytes]:
        """The outbox entry."""
        facts = Facts(
            tenant=self.tenant,
            key_id="abcdefghijkl",
            plan="demo",
            operation="chat",
            requested_model=self.model,
            served_model=self.model,
            cluster=self.model,
            provider="triton",
            weights=(1, 0, 5),
            reserved_units=100,
            input_estimate=9,
            output_estimate=20,
            trace=self.trace,
            debits=(Debit(Scope.KEY, Measure.UNITS, 1000),),
        )
        entry: dict[str, str | int | bytes] = {
            "id": self.record_id,
            "kind": self.kind,
            "in": self.input,
            "out": self.output,
            "cached": self.cached,
            "reasoning": self.reasoning,
            "in_src": 1,
            "out_src": 1,
            "started_ms": self.ended_ms - 20,
            "first_ms": self.ended_ms - 10,
            "ended_ms": self.ended_ms,
            "flags": "",
            "facts": facts.encode(),
        }
        if self.corrects:
            entry["corrects"] = self.corrects
        return entry

    def to_pb(self) -> usage_pb.UsageRecord:
        """What the relay makes of the outbox entry."""
        return to_pb_record(
            {
                name.encode(): value
                if isinstance(value, bytes)
                else str(value).encode()
                for name, value in self.fields().items()
            }
        )


def settle(db: redis.Redis, records: Iterable[Record]) -> None:
    """Write records to the outboxes, as SETTLE does."""
    with db.pipeline(transaction=False) as pipeline:
        for record in records:
            pipeline.xadd(outbox(shard(record.tenant)), record.fields())  # type: ignore[arg-type]
        pipeline.execute()


def books(records: Iterable[Record]) -> dict[str, int]:
    """What the windows and exchange counters must hold after each record once."""
    expected: Counter[str] = Counter()
    for record in {record.record_id: record for record in records}.values():
        hour = record.ended_ms // HOUR_MS
        series = {
            "uncached_input": record.input - record.cached,
            "cached_input": record.cached,
            "output": record.output,
            "reasoning": record.reasoning,
        }
        for name, count in series.items():
            if count:
                window = f"window:{record.tenant}|{record.model}|{name}|{hour}"
                expected[f"{window} total"] += count
                expected[f"{window} n"] += 1
        kind = {**KINDS, 4: "adjustments"}[record.kind]
        row = f"exchanges:{record.tenant}|{record.model}|{hour}"
        expected[f"{row} {kind}"] += 1
    return dict(expected)


def windows(db: redis.Redis) -> dict[str, int]:
    """What they hold, traces apart."""
    found = {}
    for pattern in ("{b*}:window:*", "{b*}:exchanges:*"):
        for key in db.scan_iter(pattern, count=1000):
            name = key.decode().partition("}:")[2]
            sums = cast("dict[bytes, bytes]", db.hgetall(key))
            sums.pop(b"trace", None)
            for field, number in sums.items():
                found[f"{name} {field.decode()}"] = int(number)
    return found


def outbox_length(db: redis.Redis) -> int:
    """Entries in all outboxes, and those that are still pending though deleted."""
    length = 0
    for number in range(SHARDS):
        if db.exists(outbox(number)):
            length += db.xlen(outbox(number))
            for group in db.xinfo_groups(outbox(number)):
                length += group["pending"]
    return length


def wait_until(condition: object, what: str, seconds: float = 60.0) -> None:
    """Return when `condition()` is true; fail when it takes too long."""
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.02)


def wait_drained(db: redis.Redis) -> None:
    """Wait until every record has left its outbox."""
    wait_until(lambda: outbox_length(db) == 0, "drained")


def mixed(count: int, tenants: int = 5) -> list[Record]:
    """Records of several tenants, models, kinds and hours, zero counts included."""
    now_ms = time.time_ns() // 1_000_000
    return [
        Record.make(
            made_ms=now_ms - number % 3 * HOUR_MS,
            tenant=f"tenant-{number % tenants}",
            model=("tiny-chat", "llama-3.1/8b")[number % 2],
            kind=(1, 1, 2, 3)[number % 4],
            input=number % 7,
            output=number % 11,
            cached=number % 3 if number % 7 > 2 else 0,
            reasoning=number % 2 if number % 11 else 0,
        )
        for number in range(count)
    ]
