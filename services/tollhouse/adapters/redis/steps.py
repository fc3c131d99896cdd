"""The five steps of an exchange: which script, which keys, which arguments.

How long Redis remembers an exchange, and what that costs: a key of about 0.8 KB while
it is open; about 0.17 KB for CLOSED_MS after it was settled or released, which is what
makes repeats harmless: 61 MB at 100 exchanges a second. Abandoned ones are rare.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.client import Argument, Run, Script
from tollhouse.core.exchange import RESTORE_MS, Beat, Settlement
from tollhouse.core.ids import created_ms
from tollhouse.core.limits import Allowance, Limits, Reservation
from tollhouse.core.usage import Facts

OPEN_MS = 48 * 3_600_000
"""How long an exchange is kept after its last beat, waiting to be reaped."""
ABANDONED_MS = 24 * 3_600_000
"""How long a reaped exchange waits for a settlement that only was late."""
CLOSED_MS = 3_600_000
"""How long a repeat of a settlement or a late RESERVE is recognised."""
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Writing:
    """A step that writes a record, which needs the sums of the record's hour.

    Only the script knows the hour for sure (it has the time): it may ask for another.
    """

    shard: int
    hour: int
    run: Callable[[int], Run]


@dataclass(frozen=True, slots=True)
class Scripts:
    """The five steps of an exchange, each an atomic script."""

    reserve: Script
    beat: Script
    settle: Script
    release: Script
    reap: Script

    @classmethod
    def load(cls) -> "Scripts":
        """Read them from beside this module."""
        names = ("reserve", "beat", "settle", "release", "reap")
        return cls(*(Script.load("exchange.lua", f"{name}.lua") for name in names))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an exchange's keys are; the same for all of a key, tenant and model."""

    shard: int
    limits: tuple[str, ...]
    """Buckets, leases of each scope, all leases, as exchange.lua wants them."""

    def keys(self, exchange_id: str) -> tuple[str, ...]:
        return (shards.exchange(self.shard, exchange_id), *self.limits)

    def keys_of_record(
        self, exchange_id: str, tenant: str, hour: int
    ) -> tuple[str, ...]:
        return (
            *self.keys(exchange_id),
            shards.outbox(self.shard),
            shards.settled(self.shard, tenant, hour),
        )


@lru_cache(maxsize=8192)
def _place(tenant: str, key_id: str, model: str) -> _Place:
    shard = shards.shard(tenant)
    owners = (f"key:{key_id}", f"model:{tenant}:{model}")
    buckets = (
        f"{{s{shard}}}:bucket:{owner}:{what}"
        for owner in owners
        for what in ("requests", "units")
    )
    leases = (f"{{s{shard}}}:concurrent:{owner}" for owner in owners)
    return _Place(shard, (*buckets, *leases, shards.leases(shard)))


def _place_of(facts: Facts) -> _Place:
    return _place(facts.tenant, facts.key_id, facts.served_model)


@lru_cache(maxsize=1024)
def limits_of(key: Allowance, tenant_model: Allowance) -> Limits:
    """The limits of two allowances; they change only with the configuration."""
    return Limits(key, tenant_model)


@lru_cache(maxsize=1024)
def _limit_arguments(key: Allowance, tenant_model: Allowance) -> tuple[Argument, ...]:
    """What reserve.lua needs to know of the limits."""
    limits = limits_of(key, tenant_model)
    arguments: list[Argument] = []
    for bucket in limits.buckets:
        arguments += ("", "") if bucket is None else (bucket.rate, bucket.capacity)
    arguments += ("" if most is None else most for most in limits.concurrent)
    return tuple(arguments)


class Steps:
    """Builds the runs of one set of scripts; leases last `lease_ms`."""

    def __init__(self, scripts: Scripts, lease_ms: int) -> None:
        self._scripts = scripts
        self._lease_ms = lease_ms

    def reserve(self, reservation: Reservation) -> Run:
        """Take room in every limit."""
        facts, id_ = reservation.facts, reservation.exchange_id
        arguments = (
            *(id_, self._lease_ms, OPEN_MS, facts.encode(), facts.reserved_units),
            *_limit_arguments(reservation.key, reservation.tenant_model),
        )
        return self._scripts.reserve, _place_of(facts).keys(id_), arguments

    def release(self, shard: int, exchange_id: str, facts: Facts | None) -> Run:
        """Give all back; without facts only if there is nothing to give."""
        arguments: list[Argument] = [exchange_id, CLOSED_MS]
        if facts is None:
            keys: tuple[str, ...] = (
                shards.exchange(shard, exchange_id),
                shards.leases(shard),
            )
        else:
            keys = _place_of(facts).keys(exchange_id)
            arguments += facts.debits
        return self._scripts.release, keys, arguments

    def beat(self, beat: Beat) -> Run:
        """Extend the lease, keep the counts."""
        facts = beat.facts
        arguments: tuple[Argument, ...] = (
            *(beat.exchange_id, self._lease_ms, OPEN_MS, facts.encode()),
            *facts.weights,
            *_counts(beat, beat.at_ms),
            RESTORE_MS,
            *facts.debits,
        )
        return self._scripts.beat, _place_of(facts).keys(beat.exchange_id), arguments

    def settle(self, settlement: Settlement) -> Writing:
        """Replace the reservation by what was used."""
        facts, exchange_id = settlement.facts, settlement.exchange_id
        place = _place_of(facts)
        created = created_ms(exchange_id)
        before: tuple[Argument, ...] = (
            *(exchange_id, CLOSED_MS, facts.encode()),
            *facts.weights,
            *_counts(settlement, settlement.ended_ms),
            *(settlement.kind.value, settlement.flags, created, RESTORE_MS),
        )
        after = (facts.served_model, *facts.debits)

        def run(hour: int) -> Run:
            keys = place.keys_of_record(exchange_id, facts.tenant, hour)
            return self._scripts.settle, keys, (*before, hour, *after)

        return Writing(place.shard, max(settlement.ended_ms, created) // HOUR_MS, run)

    def reap(self, exchange_id: str, facts: Facts, beat_ms: int) -> Writing:
        """Close what nobody serves any more; `beat_ms`: its last beat, or 0."""
        place = _place_of(facts)
        created = created_ms(exchange_id)

        def run(hour: int) -> Run:
            keys = place.keys_of_record(exchange_id, facts.tenant, hour)
            arguments: tuple[Argument, ...] = (
                *(exchange_id, ABANDONED_MS, created, facts.input_estimate),
                *(hour, facts.served_model),
            )
            return self._scripts.reap, keys, arguments

        return Writing(place.shard, max(beat_ms, created) // HOUR_MS, run)


def _counts(event: Beat | Settlement, ended_ms: int) -> tuple[int, ...]:
    """Counts in exchange.lua's order."""
    usage = event.usage
    return (
        *(usage.input_tokens, usage.output_tokens),
        *(usage.cached_input_tokens, usage.reasoning_tokens),
        *(event.input_source.value, event.output_source.value),
        *(event.started_ms, event.first_ms, ended_ms),
    )
