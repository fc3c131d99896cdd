"""Slots: which hash tag the keys of a tenant and of the fleet carry, and their names.

A tenant's limits, leases, reservations and outbox share one slot, its shard, so that
one script may touch them all; 64 fixed tags keep the number of outboxes to read
constant. What all tenants share, the limits of models and of the whole gateway, is in
one more slot, the fleet's. Names that go into a key hold no braces (tenants are
`[a-z0-9-]`), or the slot would move.
"""

from binascii import crc_hqx
from functools import lru_cache
from typing import assert_never

from tollhouse.core.limits import Debit, Measure, Scope

SHARDS = 64
"""Fixed for the life of a deployment: another number moves every tenant."""
FLEET = SHARDS
"""The slot of what all tenants share; slots below it are shards."""


def crc16(name: bytes) -> int:
    """Redis Cluster's CRC16 (XMODEM)."""
    return crc_hqx(name, 0)


@lru_cache(maxsize=65_536)
def shard(tenant: str) -> int:
    """Shard of a tenant's limits and outbox."""
    return crc16(tenant.encode()) % SHARDS


def tag(slot: int) -> str:
    """Hash tag of a slot's keys: Redis Cluster keeps equal ones together."""
    return "{m0}" if slot == FLEET else f"{{s{slot}}}"


def outbox(number: int) -> str:
    """Stream of usage records the aggregator has not acknowledged yet."""
    return f"{tag(number)}:outbox"


def refused(number: int) -> str:
    """Stream of usage records the aggregator refused, see ack.lua."""
    return f"{tag(number)}:parked"


def audit(number: int) -> str:
    """Stream of what operators decided about refused records, see unpark.lua."""
    return f"{tag(number)}:audit"


def leases(slot: int) -> str:
    """Sorted set of open exchanges; score: when the lease ends, Redis time in ms."""
    return f"{tag(slot)}:leases"


def promises(slot: int) -> str:
    """Hash of when refused exchanges were told to come again, see waits.lua."""
    return f"{tag(slot)}:promises"


def exchange(slot: int, exchange_id: str) -> str:
    """State of one exchange, see exchange.lua."""
    return f"{tag(slot)}:exchange:{exchange_id}"


def settled(number: int, tenant: str, hour: int) -> str:
    """Sums of a tenant's records in one hour (hours since 1970)."""
    return f"{tag(number)}:settled:{tenant}:{hour}"


def learned(tenant: str, model: str) -> str:
    """What a cohort has learned, see learn.lua; an empty name means all."""
    if not tenant:
        return f"{tag(FLEET)}:learned:{model}"
    of_model = f":{model}" if model else ""
    return f"{tag(shard(tenant))}:learned:{tenant}{of_model}"


def limit(debit: Debit, tenant: str, key_id: str, model: str) -> str:
    """State of one limit, see exchange.lua."""
    scope, measure = debit.scope, debit.measure
    match scope:
        case Scope.KEY:
            owner = f"key:{key_id}"
        case Scope.TENANT:
            owner = f"tenant:{tenant}"
        case Scope.TENANT_MODEL:
            owner = f"model:{tenant}:{model}"
        case Scope.MODEL:
            owner = f"model:{model}"
        case Scope.GLOBAL:
            owner = "global"
        case unreachable:
            assert_never(unreachable)
    at = tag(FLEET if scope.is_fleet else shard(tenant))
    match measure:
        case Measure.REQUESTS | Measure.UNITS:
            return f"{at}:bucket:{owner}:{measure.name.lower()}"
        case Measure.CONCURRENT:
            return f"{at}:concurrent:{owner}"
        case Measure.CAPACITY:
            return f"{at}:inflight:{model}"
        case _:
            what = "money" if measure.is_money else "units"
            return f"{at}:budget:{owner}:{what}:{debit.parameter}"
