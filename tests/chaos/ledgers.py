"""The three ledgers of a run, each read by itself and as its keeper left it.

The engine wrote what it generated, Redis has records and windows, the provider has
what it took. Nothing here calls code of Tollhouse: names are taken apart again.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.chaos import redis_log
from tests.chaos.redis_log import RedisLog
from tests.stack_redis import open_redis
from tollhouse.adapters.redis.access import RedisAccess

TYPES = ("uncached_input", "cached_input", "output")
KINDS = ("final", "partial", "abandoned")
_BILLING_SHARDS = 16
_GATEWAY_SHARDS = 64


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """What a sum is of: `hour` counts UTC hours since 1970."""

    tenant: str
    model: str
    type: str
    hour: int


Counts = tuple[int, int, int]
"""Input (cached included), cached input, output: tokens."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What the engine did for one exchange; `ended_at` in Unix seconds."""

    tenant: str
    model: str
    counts: Counts
    is_whole: bool
    ended_at: float


@dataclass(frozen=True, slots=True)
class Window:
    """One window as Redis has it."""

    total: int
    sealed: int
    accepted: int
    parked: int
    is_open: bool


@dataclass(frozen=True, slots=True)
class Ledgers:
    """All of them."""

    engine: Mapping[str, list[Generated]]
    """By exchange; one each, if all is well."""
    log: RedisLog
    windows: Mapping[Line, Window]
    exchanges: Mapping[tuple[str, str, int], Counter[str]]
    """By tenant, model and hour: how many of each kind."""
    provider: Mapping[Line, int]


def read(folder: Path, access: RedisAccess, provider: Mapping[Line, int]) -> Ledgers:
    """Read what a run left in its folder and in its Redis, which still runs."""
    with open_redis(access) as client:
        windows, exchanges = _windows(client), _exchanges(client)
    return Ledgers(
        engine=_engine(folder / "engine.jsonl"),
        log=redis_log.read(folder / "state" / "redis"),
        windows=windows,
        exchanges=exchanges,
        provider=provider,
    )


def of_provider(
    totals: Mapping[tuple[str, str, int], int], tenants: Mapping[str, str]
) -> dict[Line, int]:
    """What the provider took, by customer, meter and hour, in our terms."""
    lines = {}
    for (customer, event_name, hour), value in totals.items():
        _, model, type_ = event_name.split(".")
        tenant = tenants.get(customer, f"nobody ({customer})")
        lines[Line(tenant, model, type_, hour)] = value
    return lines


def waiting(client: redis.Redis) -> Counter[str]:
    """How much is on its way, by where it waits: empty when all is at rest."""
    looks = [
        # In the order things go through them, or one could slip past the look.
        *((f"{{s{it}}}:leases", "leases") for it in range(_GATEWAY_SHARDS)),
        *((f"{{s{it}}}:outbox", "outbox") for it in range(_GATEWAY_SHARDS)),
        *((f"{{b{it}}}:unsealed", "unsealed") for it in range(_BILLING_SHARDS)),
        *((f"{{b{it}}}:open", "open") for it in range(_BILLING_SHARDS)),
    ]
    pipeline = client.pipeline(transaction=False)
    for key, where in looks:
        (pipeline.xlen if where == "outbox" else pipeline.zcard)(key)
    found: Counter[str] = Counter()
    for (_, where), count in zip(looks, pipeline.execute(), strict=True):
        if count:
            found[where] += count
    return found


def outbox_bytes(client: redis.Redis) -> int:
    """What Redis keeps all outboxes in."""
    sizes = (client.memory_usage(f"{{s{it}}}:outbox") for it in range(_GATEWAY_SHARDS))
    return sum(size or 0 for size in sizes)


def parked(client: redis.Redis) -> Counter[str]:
    """What was set aside: records the aggregator refused, chunks the provider did."""
    found: Counter[str] = Counter()
    for key in client.scan_iter("{s*}:parked", count=1000):
        found["records"] += client.xlen(key)
    for key in client.scan_iter("{b*}:parked", count=1000):
        found["chunks"] += client.zcard(key)
    return found


def _engine(path: Path) -> dict[str, list[Generated]]:
    found: dict[str, list[Generated]] = {}
    for text in path.read_text("utf-8").splitlines():
        said = json.loads(text)
        counts = (said["input"], said["cached"], said["output"])
        found.setdefault(said["exchange"], []).append(
            Generated(
                said["tenant"],
                said["model"],
                counts,
                said["is_whole"],
                said["ended_at"],
            )
        )
    return found


def _windows(client: redis.Redis) -> dict[Line, Window]:
    found = {}
    for key in client.scan_iter("{b*}:window:*", count=1000):
        name = key.decode().partition(":window:")[2]
        tenant, model, type_, hour = name.split("|")
        if type_ not in TYPES:
            continue
        fields = client.hgetall(key)
        total, sealed, accepted, parked_ = (
            int(fields.get(it, 0))
            for it in (b"total", b"sealed", b"accepted", b"parked")
        )
        found[Line(tenant, model, type_, int(hour))] = Window(
            total, sealed, accepted, parked_, is_open=b"open" in fields
        )
    return found


def _exchanges(client: redis.Redis) -> dict[tuple[str, str, int], Counter[str]]:
    found = {}
    for key in client.scan_iter("{b*}:exchanges:*", count=1000):
        name = key.decode().partition(":exchanges:")[2]
        tenant, model, hour = name.split("|")
        fields = client.hgetall(key)
        found[tenant, model, int(hour)] = Counter(
            {it: int(fields[it.encode()]) for it in KINDS if it.encode() in fields}
        )
    return found


def typed(counts: Counts) -> Iterable[tuple[str, int]]:
    """The billed token types of some counts."""
    input_, cached, output = counts
    return zip(TYPES, (input_ - cached, cached, output), strict=True)
