"""Billing windows: what usage records add up to, per tenant, model and hour.

A window is one (tenant, model, token type, hour); the hour is UTC, counted in hours
since 1970. Records come at least once and in any order; windows hold each once.
"""

from dataclasses import dataclass
from enum import StrEnum

from tollhouse.core.usage import TokenUsage, UsageKind

MS_PER_HOUR = 3_600_000
SECONDS_PER_HOUR = 3600


class TokenType(StrEnum):
    """What windows count apart; the values are those in Redis and of meters.

    A record's input is the uncached and the cached together.
    """

    UNCACHED_INPUT = "uncached_input"
    CACHED_INPUT = "cached_input"
    OUTPUT = "output"
    REASONING = "reasoning"
    """A part of the output: shown, never billed."""


BILLED = (TokenType.UNCACHED_INPUT, TokenType.CACHED_INPUT, TokenType.OUTPUT)
"""What has a price. Their sum is all tokens, each once."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """When windows are sealed: `delay_seconds` after their hour, then every so often.

    Late records make a window due again at the next multiple of `every_seconds` behind
    the first time, so all windows of a tenant come together.
    """

    delay_seconds: int = 300
    every_seconds: int = SECONDS_PER_HOUR

    def due(self, hour: int, now: int) -> int:
        """When a window of `hour` that has something unsealed is to be sealed."""
        first = (hour + 1) * SECONDS_PER_HOUR + self.delay_seconds
        return first if now < first else self.after(now)

    def after(self, now: int) -> int:
        """The next time behind `now`; hours are whole multiples of the interval."""
        passed = (now - self.delay_seconds) // self.every_seconds
        return (passed + 1) * self.every_seconds + self.delay_seconds


AS_PROMISED = Cadence()
"""At hour + 5 minutes, then hourly: at most one chunk per window and hour."""


@dataclass(frozen=True, slots=True)
class Posting:
    """What one usage record adds to the windows of its hour.

    `created_hour` is the hour of the exchange id's own time: it never changes, so a
    redelivery is always looked up where the first delivery was noted. An ADJUSTMENT
    carries signed differences and the hour of the record that it corrects. `trace` is
    the traceparent of one that is sampled, else empty; it counts for nothing.
    """

    record_id: str
    created_hour: int
    kind: UsageKind
    tenant: str
    model: str
    hour: int
    usage: TokenUsage
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that will never be accepted, and why: its sender parks it."""

    record_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch of postings; durable once it is known.

    `repeated`: the ids of those that were added before.
    """

    applied: int
    repeated: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = ()

    @property
    def duplicates(self) -> int:
        """How many were added before."""
        return len(self.repeated)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one tenant used of one model in one hour.

    Adjustments are in the token counts but are no exchanges.
    """

    tenant: str
    model: str
    hour: int
    usage: TokenUsage
    final_exchanges: int
    partial_exchanges: int
    abandoned_exchanges: int


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the list of rows, which is sorted by tenant, hour and model.

    It names the last row seen, so rows that appear meanwhile shift nothing.
    """

    tenant: str
    hour: int
    model: str

    @classmethod
    def parse(cls, name: str) -> "Position":
        """Read `<tenant>|<hour>|<model>`. Raises ValueError for anything else."""
        tenant, hour, model = name.split("|")
        return cls(tenant, int(hour), model)
