"""Names of the aggregator's keys, all in the billing shard of a tenant.

A shard is crc16 of the tenant mod 16, its tag `{b<k>}`; hours count from 1970, UTC.

| key | holds |
|---|---|
| `{b3}:window:<tenant>|<model>|<type>|<hour>` | hash, see below |
| `{b3}:exchanges:<tenant>|<model>|<hour>` | hash: exchanges by kind, adjustments |
| `{b3}:tenants` | zset of tenant names, all score 0 |
| `{b3}:rows` | zset of `<tenant>|<hour>|<model>`, all score 0: sorted by name |
| `{b3}:unsealed` | zset of such rows; score: when they are to be sealed |
| `{b3}:chunk:<window>|<seq>` | hash: a chunk and its progress (core/chunk.py) |
| `{b3}:open`, `{b3}:parked` | zsets of chunk ids; score: next attempt, when parked |
| `{b3}:identifier:<identifier>` | the chunk's id |
| `{b3}:seen:<hour>` | set of the record ids made in that hour, 16 bytes each |
| `{b3}:seen` | zset of hours that have such a set |
| `{b3}:closed` | the last hour whose set is dropped: its records are refused |
| `{b3}:customers` | hash: tenant → customer at the provider |
| `{b3}:audit` | stream of what operators decided |
| `{b3}:leader` | who seals and ships the shard, with a TTL |
| `{b0}:watermarks` | hash: outbox id → time of its oldest record |
| `{b0}:customers_lease` | who changes customers, with a TTL |

A window counts `total` tokens of `n` records; `sealed` of them are in chunks, and of
these `accepted` with the provider, `parked` or `discarded`. `seq` is that of its last
chunk, which is under way while `open` has it too. `trace` is where one of the records
that are not sealed stands in a trace, if any is of one that is kept: its next chunk
takes it along. Times are Unix seconds.
"""

from functools import lru_cache

from tollhouse.adapters.redis.shards import crc16
from tollhouse.core.chunk import Window
from tollhouse.core.windows import TokenType

BILLING_SHARDS = 16
"""Fixed for the life of a deployment: another number moves every tenant."""

WATERMARKS = "{b0}:watermarks"
CUSTOMERS_LEASE = "{b0}:customers_lease"


@lru_cache(maxsize=65_536)
def shard(tenant: str) -> int:
    """Billing shard of a tenant."""
    return crc16(tenant.encode()) % BILLING_SHARDS


def tag(number: int) -> str:
    """Hash tag of a shard's keys: Redis Cluster keeps equal ones together."""
    return f"{{b{number}}}"


def of_shard(number: int, name: str) -> str:
    """A key that a shard has one of."""
    return f"{tag(number)}:{name}"


def window(of: Window) -> str:
    """Hash of one window."""
    return f"{tag(shard(of.tenant))}:window:{of.name}"


def exchanges(tenant: str, model: str, hour: int) -> str:
    """Hash of exchanges by kind."""
    return f"{tag(shard(tenant))}:exchanges:{tenant}|{model}|{hour}"


def windows(tenant: str, model: str, hour: int) -> list[str]:
    """The window hashes of a row, one per token type."""
    return [window(Window(tenant, model, it, hour)) for it in TokenType]


def row_name(tenant: str, hour: int, model: str) -> str:
    """Member of `rows` and `unsealed`."""
    # Seven digits sort as numbers do until the year 3110.
    return f"{tenant}|{hour:07d}|{model}"


def chunk(of: Window, seq: int) -> str:
    """Hash of one chunk."""
    return f"{tag(shard(of.tenant))}:chunk:{of.name}|{seq}"


def identifier(number: int, text: str) -> str:
    """Entry that leads from an identifier to its chunk."""
    return f"{tag(number)}:identifier:{text}"


def seen(number: int, hour: int) -> str:
    """Set of the record ids of one hour."""
    return f"{tag(number)}:seen:{hour}"
