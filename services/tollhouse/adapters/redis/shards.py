"""Shards: which hash tag a tenant's keys carry, and the names of these keys.

A tenant's limits, leases, reservations and outbox share one slot, so that one script
may touch them all; 64 fixed tags keep the number of outboxes to read constant. Names
that go into a key hold no braces (tenants are `[a-z0-9-]`), or the slot would move.
"""

from binascii import crc_hqx
from functools import lru_cache

SHARDS = 64
"""Fixed for the life of a deployment: another number moves every tenant."""


def crc16(name: bytes) -> int:
    """Redis Cluster's CRC16 (XMODEM)."""
    return crc_hqx(name, 0)


@lru_cache(maxsize=65_536)
def shard(tenant: str) -> int:
    """Shard of a tenant's limits and outbox."""
    return crc16(tenant.encode()) % SHARDS


def outbox(number: int) -> str:
    """Stream of usage records the aggregator has not acknowledged yet."""
    return f"{{s{number}}}:outbox"


def leases(number: int) -> str:
    """Sorted set of open exchanges; score: when the lease ends, Redis time in ms."""
    return f"{{s{number}}}:leases"


def exchange(number: int, exchange_id: str) -> str:
    """State of one exchange, see exchange.lua."""
    return f"{{s{number}}}:exchange:{exchange_id}"


def settled(number: int, tenant: str, hour: int) -> str:
    """Sums of a tenant's records in one hour (hours since 1970)."""
    return f"{{s{number}}}:settled:{tenant}:{hour}"
