"""The five steps of an exchange: which script, which keys, which arguments.

An exchange is in the slot of its tenant, and in that of the fleet when it has a limit
there; each step is run in both, as the same scripts. Only a tenant's slot has records.

How long Redis remembers an exchange, and what that costs: a key of about 0.8 KB while
it is open; about 0.17 KB for CLOSED_MS after it was settled, which makes repeats
harmless: 61 MB at 100 exchanges a second; and for RELEASED_MS after it was refused: as
much at 600 refusals a second. Abandoned ones are rare.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from msgspec.json import encode

from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.client import Argument, Run, Script
from tollhouse.core import room
from tollhouse.core.buckets import Bucket
from tollhouse.core.exchange import RESTORE_MS, Beat, Settlement
from tollhouse.core.ids import created_ms
from tollhouse.core.limits import Debit, Limit
from tollhouse.core.periods import QUARTER_MS, forgotten_ms, period
from tollhouse.core.reservation import Reservation
from tollhouse.core.room import Costs
from tollhouse.core.usage import Facts

OPEN_MS = 48 * 3_600_000
"""How long an exchange is kept after its last beat, waiting to be reaped."""
ABANDONED_MS = 24 * 3_600_000
"""How long a reaped exchange waits for a settlement that only was late."""
CLOSED_MS = 3_600_000
"""How long a repeat of a settlement is recognised."""
RELEASED_MS = 600_000
"""How long a RESERVE that comes late is recognised: no connection lives that long
without an answer. Refused clients come in floods, so this is memory."""
HOUR_MS = 3_600_000
_FOREVER_MS = 2**53
_SHARED = ("fairness.lua", "waits.lua", "exchange.lua")


@dataclass(frozen=True, slots=True)
class Scripts:
    """The five steps of an exchange, each an atomic script."""

    reserve: Script
    beat: Script
    settle: Script
    release: Script
    reap: Script

    @classmethod
    def load(cls, clock: str = "clock.lua") -> "Scripts":
        """Read them from beside this module; `clock` is where they get the time."""
        names = ("reserve", "beat", "settle", "release", "reap")
        return cls(*(Script.load(clock, *_SHARED, f"{name}.lua") for name in names))


@dataclass(frozen=True, slots=True)
class Writing:
    """A step that may write a record, which needs the sums of the record's hour.

    Only the script knows the hour for sure (it has the time): it may ask for another.
    None: the fleet's slot, no record.
    """

    slot: int
    hour: int | None
    run: Callable[[int | None], Run]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """The limits of a reservation that are in one slot, during one set of periods."""

    slot: int
    indexes: tuple[int, ...]
    """Where they are among those of the reservation."""
    limits: tuple[Limit, ...]
    debits: tuple[Debit, ...]
    keys: tuple[str, ...]
    arguments: tuple[Argument, ...]
    """Five of each limit, as reserve.lua says."""
    times: tuple[int, int]
    """From when until when the periods of all its budgets last, Unix milliseconds."""


@dataclass(frozen=True, slots=True, eq=False)
class _Charged:
    """What an exchange is charged to in one slot."""

    slot: int
    keys: tuple[str, ...]
    arguments: tuple[Argument, ...]
    """Two of each limit, as exchange.lua says."""


def sides(reservation: Reservation, at_ms: int) -> tuple[Side, ...]:
    """Find the slots to reserve in: the tenant's, and before it any of the fleet."""
    facts, so_far = reservation.facts, reservation.so_far
    names = facts.tenant, facts.key_id, facts.served_model
    quarter = at_ms // QUARTER_MS
    debits = None if so_far is None else so_far.debits
    return _sides(reservation.limits, debits, *names, quarter)


@lru_cache(maxsize=8192)
def _sides(  # noqa: PLR0917 - all of them the key of the cache
    limits: tuple[Limit, ...],
    so_far: tuple[Debit, ...] | None,
    tenant: str,
    key_id: str,
    model: str,
    quarter: int,
) -> tuple[Side, ...]:
    # A quarter of an hour is always within one day of every zone.
    at_ms = quarter * QUARTER_MS
    charged = {(it.scope, it.measure): it for it in so_far or ()}
    found = []
    for slot in (shards.FLEET, shards.shard(tenant)):
        is_fleet = slot == shards.FLEET
        indexes = tuple(
            index for index, it in enumerate(limits) if it.scope.is_fleet == is_fleet
        )
        if is_fleet and not indexes:
            continue
        mine = tuple(limits[index] for index in indexes)
        debits = tuple(
            charged.get((it.scope, it.measure)) or room.debit(it, at_ms) for it in mine
        )
        # What is charged already, is to the periods in which the exchange began.
        periods = [
            period(it.measure, it.zone, at_ms)
            for it in mine
            if it.measure.is_budget and so_far is None
        ]
        times = (
            max((it.starts_ms for it in periods), default=0),
            min((it.ends_ms for it in periods), default=_FOREVER_MS),
        )
        keys = _keys(slot, debits, tenant, key_id, model)
        arguments: list[Argument] = []
        for limit, debit in zip(mine, debits, strict=True):
            arguments += (limit.measure.value, _number(debit), _room(limit))
            arguments += (int(limit.shadow), encode(debit))
        side = Side(slot, indexes, mine, debits, keys, tuple(arguments), times)
        found.append(side)
    return tuple(found)


def slots(facts: Facts) -> tuple[int, ...]:
    """Find the slots an exchange was charged in."""
    shard = shards.shard(facts.tenant)
    if any(debit.scope.is_fleet for debit in facts.debits):
        return shard, shards.FLEET
    return (shard,)


def _charged_in(facts: Facts, slot: int) -> _Charged:
    return _charged(slot, facts.debits, facts.tenant, facts.key_id, facts.served_model)


@lru_cache(maxsize=8192)
def _charged(
    slot: int, debits: tuple[Debit, ...], tenant: str, key_id: str, model: str
) -> _Charged:
    is_fleet = slot == shards.FLEET
    mine = tuple(it for it in debits if it.scope.is_fleet == is_fleet)
    arguments: list[Argument] = []
    for debit in mine:
        arguments += (debit.measure.value, _number(debit))
    return _Charged(slot, _keys(slot, mine, tenant, key_id, model), tuple(arguments))


def _keys(
    slot: int, debits: tuple[Debit, ...], tenant: str, key_id: str, model: str
) -> tuple[str, ...]:
    """All keys of a run but the first, the exchange, and those of a record."""
    limits = (shards.limit(debit, tenant, key_id, model) for debit in debits)
    return shards.leases(slot), shards.promises(slot), *limits


def _number(debit: Debit) -> int:
    """What the scripts need to know of a limit to correct it."""
    if debit.measure.is_budget:
        return forgotten_ms(debit.measure, debit.parameter)
    return debit.parameter


def _room(limit: Limit) -> int:
    """What a limit holds at most: grains, exchanges, units or money; -1: no nothing."""
    if not limit.value:
        return -1
    return Bucket.of(limit).capacity if limit.measure.is_bucket else limit.value


class Steps:
    """Builds the runs of one set of scripts."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def reserve(
        self,
        reservation: Reservation,
        side: Side,
        elsewhere: tuple[Debit, ...],
        lease_ms: int,
    ) -> Run:
        """Take room in every limit of a slot; `elsewhere`: what another one charged."""
        facts, id_ = reservation.facts, reservation.exchange_id
        costs, typical = Costs.of(reservation), reservation.typical
        arguments = (
            *(id_, lease_ms, OPEN_MS, costs.units, costs.money, *side.times),
            *(reservation.whole.encode()[:-1], b",".join(map(encode, elsewhere))),
            *(facts.tenant, typical.duration_ms, typical.refund),
            *(int(reservation.is_held), reservation.ordinal),
            *side.arguments,
        )
        keys = (shards.exchange(side.slot, id_), *side.keys)
        return self._scripts.reserve, keys, arguments

    def release(
        self, slot: int, exchange_id: str, facts: Facts | None, kept_ms: int
    ) -> Run:
        """Give all back; without facts only if there is nothing to give.

        A RESERVE that comes within `kept_ms` is refused.
        """
        charged = _Charged(slot, _keys(slot, (), "", "", ""), ())
        if facts is not None:
            charged = _charged_in(facts, slot)
        arguments = (
            exchange_id,
            kept_ms,
            "" if facts is None else facts.tenant,
            *charged.arguments,
        )
        keys = (shards.exchange(slot, exchange_id), *charged.keys)
        return self._scripts.release, keys, arguments

    def beat(self, slot: int, beat: Beat, lease_ms: int) -> Run:
        """Extend the lease, keep the counts."""
        facts, charged = beat.facts, _charged_in(beat.facts, slot)
        arguments: tuple[Argument, ...] = (
            *(beat.exchange_id, lease_ms, OPEN_MS, facts.encode()),
            *(facts.tenant, RESTORE_MS, *facts.weights, *facts.prices),
            *_counts(beat, beat.at_ms),
            *charged.arguments,
        )
        keys = (shards.exchange(slot, beat.exchange_id), *charged.keys)
        return self._scripts.beat, keys, arguments

    def settle(self, slot: int, settlement: Settlement) -> Writing:
        """Replace the reservation by what was used."""
        facts, id_ = settlement.facts, settlement.exchange_id
        charged = _charged_in(facts, slot)
        created = created_ms(id_)
        before = (id_, CLOSED_MS, facts.encode())
        after: tuple[Argument, ...] = (
            *(facts.served_model, settlement.kind.value, settlement.flags),
            *(created, RESTORE_MS, facts.tenant, *facts.weights, *facts.prices),
            *_counts(settlement, settlement.ended_ms),
            *charged.arguments,
        )

        def run(hour: int | None) -> Run:
            told = "" if hour is None else hour
            keys = _keys_of_record(charged, id_, facts.tenant, hour)
            return self._scripts.settle, keys, (*before, told, *after)

        return Writing(slot, _hour(slot, max(settlement.ended_ms, created)), run)

    def reap(self, slot: int, exchange_id: str, facts: Facts, beat_ms: int) -> Writing:
        """Close what nobody serves any more; `beat_ms`: its last beat, or 0."""
        charged = _charged_in(facts, slot)
        created = created_ms(exchange_id)

        def run(hour: int | None) -> Run:
            arguments: tuple[Argument, ...] = (
                *(exchange_id, ABANDONED_MS, created, facts.input_estimate),
                *("" if hour is None else hour, facts.served_model, facts.tenant),
                *charged.arguments,
            )
            keys = _keys_of_record(charged, exchange_id, facts.tenant, hour)
            return self._scripts.reap, keys, arguments

        return Writing(slot, _hour(slot, max(beat_ms, created)), run)


def _hour(slot: int, at_ms: int) -> int | None:
    return None if slot == shards.FLEET else at_ms // HOUR_MS


def _keys_of_record(
    charged: _Charged, exchange_id: str, tenant: str, hour: int | None
) -> tuple[str, ...]:
    keys = (shards.exchange(charged.slot, exchange_id), *charged.keys)
    if hour is None:
        return keys
    settled = shards.settled(charged.slot, tenant, hour)
    return *keys, shards.outbox(charged.slot), settled


def _counts(event: Beat | Settlement, ended_ms: int) -> tuple[int, ...]:
    """Counts in exchange.lua's order."""
    usage = event.usage
    return (
        *(usage.input_tokens, usage.output_tokens),
        *(usage.cached_input_tokens, usage.reasoning_tokens),
        *(event.input_source.value, event.output_source.value),
        *(event.started_ms, event.first_ms, ended_ms),
    )
