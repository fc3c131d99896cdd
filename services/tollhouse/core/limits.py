"""Limits: what may be used, by whom, of what; and what a limiter answers.

A plan gives each scope an `Allowance`; the limits of one exchange are the flat tuple of
all that apply to it. Three kinds: buckets (per minute, refilled continuously, may go
into debt), budgets (a counter per calendar period), counts (exchanges at once, units in
flight). `core.buckets` has the arithmetic, `adapters.redis` the shared state.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import msgspec

MONEY = 10**10
"""Money is counted in whole ten-billionths of the currency: a price of 0.0001 per
million tokens is one of these a token, and `MOST_MONEY` is below `MOST`."""
MOST_MONEY = 900_000
"""Of the currency in one budget."""
MOST = 2**53
"""Redis' scripts count in doubles: whole numbers up to this one."""
MOST_PER_MINUTE = 2_500_000_000
"""Of a bucket: its grains (core.buckets) stay below `MOST` whatever its burst."""
DEFAULT_BURST_SECONDS = 10.0
LONGEST_BURST_SECONDS = 3600.0


class Scope(IntEnum):
    """Whose use a limit counts; the values are those of a debit."""

    KEY = 1
    TENANT = 2
    TENANT_MODEL = 3
    """All keys of a tenant together, on one model."""
    MODEL = 4
    GLOBAL = 5

    @property
    def is_fleet(self) -> bool:
        """Shared by all tenants: lives in the fleet's slot, not in a tenant's shard."""
        return self >= Scope.MODEL


class Measure(IntEnum):
    """What a limit counts; the values are those of a debit."""

    REQUESTS = 1
    """Requests per minute."""
    UNITS = 2
    """Units per minute."""
    CONCURRENT = 3
    """Exchanges at once."""
    UNITS_PER_DAY = 4
    UNITS_PER_MONTH = 5
    MONEY_PER_DAY = 6
    MONEY_PER_MONTH = 7
    CAPACITY = 8
    """Units in flight of one model, shared fairly among tenants (core.fairness)."""

    @property
    def is_bucket(self) -> bool:
        """Refills continuously."""
        return self in (Measure.REQUESTS, Measure.UNITS)

    @property
    def is_budget(self) -> bool:
        """Starts anew with a calendar period."""
        return Measure.UNITS_PER_DAY <= self <= Measure.MONEY_PER_MONTH

    @property
    def is_money(self) -> bool:
        """Counted in `MONEY`, not in units."""
        return self in (Measure.MONEY_PER_DAY, Measure.MONEY_PER_MONTH)

    @property
    def is_daily(self) -> bool:
        """A budget of a day, else of a month."""
        return self in (Measure.UNITS_PER_DAY, Measure.MONEY_PER_DAY)


class Debit(msgspec.Struct, frozen=True, array_like=True):
    """One limit that an exchange was charged to: where the settlement corrects.

    `parameter`: refill per minute of a bucket; period of a budget (20261120, 202611);
    the tenant's weight for CAPACITY; else 0. With the facts' tenant, key and model it
    names the key in Redis.
    """

    scope: Scope
    measure: Measure
    parameter: int = 0


class Limit(msgspec.Struct, frozen=True, cache_hash=True):
    """One limit of one exchange.

    `value` as configured: per minute, at once, units or `MONEY` per period. `burst`:
    seconds of a bucket's refill that may be used at once. `zone`: IANA name of the time
    zone of a budget's periods. `weight`: the tenant's share of a CAPACITY. `shadow`:
    counted and reported, never refused by.
    """

    scope: Scope
    measure: Measure
    value: int
    burst: float = DEFAULT_BURST_SECONDS
    zone: str = "UTC"
    weight: int = 1
    shadow: bool = False

    @property
    def word(self) -> str:
        """Which it is, for logs and spans: `key.requests`."""
        return f"{self.scope.name}.{self.measure.name}".lower()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one scope may use; None: no such limit, 0: nothing.

    `burst_seconds` is how much of a minute's allowance may be used at once: in any
    60 s at most limit * (1 + burst_seconds / 60) is admitted.
    """

    requests_per_minute: int | None = None
    units_per_minute: int | None = None
    concurrent: int | None = None
    units_per_day: int | None = None
    units_per_month: int | None = None
    money_per_day: int | None = None
    money_per_month: int | None = None
    burst_seconds: float = DEFAULT_BURST_SECONDS
    shadow: bool = False

    def limits(self, scope: Scope, zone: str) -> Iterator[Limit]:
        """Yield the limits that are there, in the order of `Measure`."""
        values = (
            (Measure.REQUESTS, self.requests_per_minute),
            (Measure.UNITS, self.units_per_minute),
            (Measure.CONCURRENT, self.concurrent),
            (Measure.UNITS_PER_DAY, self.units_per_day),
            (Measure.UNITS_PER_MONTH, self.units_per_month),
            (Measure.MONEY_PER_DAY, self.money_per_day),
            (Measure.MONEY_PER_MONTH, self.money_per_month),
        )
        for measure, value in values:
            if value is not None:
                yield Limit(
                    scope=scope,
                    measure=measure,
                    value=value,
                    burst=self.burst_seconds,
                    zone=zone,
                    shadow=self.shadow,
                )
