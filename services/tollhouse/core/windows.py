"""Billing windows: what usage records add up to, per tenant, model and hour.

A window is one (tenant, model, token type, hour); the hour is UTC, counted in hours
since 1970. Records come at least once and in any order; windows hold each once.
"""

from dataclasses import dataclass

from tollhouse.core.usage import TokenUsage, UsageKind

MS_PER_HOUR = 3_600_000
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Posting:
    """What one usage record adds to the windows of its hour.

    `created_hour` is the hour of the exchange id's own time: it never changes, so a
    redelivery is always looked up where the first delivery was noted. An ADJUSTMENT
    carries signed differences and the hour of the record that it corrects.
    """

    record_id: str
    created_hour: int
    kind: UsageKind
    tenant: str
    model: str
    hour: int
    usage: TokenUsage


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that will never be accepted, and why: its sender parks it."""

    record_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch of postings; durable once it is known."""

    applied: int
    duplicates: int
    rejected: tuple[Rejected, ...] = ()


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
