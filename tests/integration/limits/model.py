"""What Redis must hold after each step: the pure reference, laid out as keys."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from tests.integration.limits.keys import (
    counts,
    exchange_text,
    flight_fields,
    outbox_entry,
)
from tollhouse.adapters.redis import shards
from tollhouse.core import buckets, fairness, room, waits
from tollhouse.core import exchange as ex
from tollhouse.core.buckets import GRAINS, Bucket
from tollhouse.core.ids import created_ms
from tollhouse.core.limits import Debit, Limit, Measure
from tollhouse.core.periods import forgotten_ms
from tollhouse.core.reservation import Granted, Refused, Reservation
from tollhouse.core.room import Costs
from tollhouse.core.usage import Facts, UsageKind, UsageRecord
from tollhouse.core.waits import Running

SERIES = ("input", "output", "cached_input", "reasoning")


class Over(Exception):
    """Nothing may be reserved for this exchange any more."""


def key_of(debit, facts):
    return shards.limit(debit, facts.tenant, facts.key_id, facts.served_model)


@dataclass
class Told:
    """What a slot answers, its limits by their place among those it was asked for."""

    facts: Facts
    levels: Sequence[int]
    shadowed: Collection[int]
    binding: int | None = None
    wait_ms: float = 0


@dataclass
class Slot:
    """The exchanges of one slot, and what its limits are charged."""

    number: int
    exchanges: dict[str, ex.Stored] = field(default_factory=dict)
    levels: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of buckets and budgets: what is used, and when it was written."""
    leases: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    flights: dict[str, fairness.Flight] = field(
        default_factory=lambda: defaultdict(fairness.Flight)
    )
    promises: dict[str, int] = field(default_factory=dict)
    records: list[UsageRecord] = field(default_factory=list)
    now_ms: int = 0
    lease_ms: int = 0

    @property
    def is_fleet(self):
        return self.number == shards.FLEET

    def debits(self, facts):
        """Those of an exchange's debits that are in this slot."""
        return [it for it in facts.debits if it.scope.is_fleet == self.is_fleet]

    def ask(self, reservation: Reservation, limits: list[Limit], facts: Facts):
        """What RESERVE does and tells; `facts` with what was charged elsewhere.

        Raises Over.
        """
        stored = self.exchanges.get(reservation.exchange_id)
        if not isinstance(stored, ex.Reserved | None):
            raise Over
        ordinal, is_first = reservation.ordinal, reservation.so_far is None
        is_new = stored is None or stored.requests < ordinal
        debits, before, delays, start = self.judge(reservation, limits)
        verdict = room.judge(limits, delays)
        if is_new and verdict.binding is not None:
            if verdict.wait_ms < math.inf and not reservation.is_held:
                self.promise(facts, limits, debits, delays)
            return Told(facts, before, (), verdict.binding, verdict.wait_ms)
        if is_first:
            taken = [it for n, it in enumerate(debits) if n not in verdict.shadowed]
            if stored is not None and not is_new:
                taken = self.debits(stored.facts)
            facts = replace(facts, debits=(*facts.debits, *taken))
        costs = Costs.of(reservation)
        if is_new:
            event = ex.Reserve(reservation.exchange_id, facts, costs, ordinal)
            self.take(facts, event, start)
        charged = {(it.scope, it.measure) for it in facts.debits}
        uncharged = [
            n for n, it in enumerate(debits) if (it.scope, it.measure) not in charged
        ]
        levels = [
            # By what it takes: the lease of a lost one may still count.
            level + costs.of_measure(it.measure) * (is_new and n not in uncharged)
            for n, (it, level) in enumerate(zip(debits, before, strict=True))
        ]
        shadowed = uncharged if is_first or not is_new else verdict.shadowed
        return Told(facts, levels, shadowed)

    def judge(self, reservation: Reservation, limits: list[Limit]):
        """Levels, waits, and where a tenant's counter starts."""
        facts, id_ = reservation.facts, reservation.exchange_id
        is_new = self.exchanges.get(id_) is None
        at_ms = self.now_ms if is_new else created_ms(id_)
        debits = [room.debit(limit, at_ms) for limit in limits]
        if reservation.so_far is not None:
            charged = {(it.scope, it.measure): it for it in reservation.so_far.debits}
            debits = [charged[it.scope, it.measure] for it in limits]
        levels: list[int] = []
        delays: list[float] = []
        start = None
        for limit, debit in zip(limits, debits, strict=True):
            level = self.level(debit, facts)
            cost = Costs.of(reservation).of_measure(limit.measure)
            wait = room.wait_ms(limit, cost, level)
            if limit.measure is Measure.CAPACITY:
                verdict = fairness.judge(
                    self.flights[key_of(debit, facts)],
                    facts.tenant,
                    limit.weight,
                    cost,
                    limit.value,
                )
                start = verdict.counter
                wait = 0 if verdict.fits else wait or 1
            if 0 < wait < math.inf:
                wait = self._due(reservation, limits, limit, debit) - self.now_ms
            levels.append(level)
            delays.append(wait)
        return debits, levels, delays, start

    def _due(self, reservation, limits, limit, debit):
        """When there should be room in a limit that has none."""
        facts, typical, now = reservation.facts, reservation.typical, self.now_ms
        cost = Costs.of(reservation).of_measure(limit.measure)
        level = self.level(debit, facts)
        promised = self.promises.get(key_of(debit, facts), 0)
        running = waits.NOTHING
        if limit.measure in (Measure.CONCURRENT, Measure.UNITS) and any(
            it.scope is limit.scope and it.measure is Measure.CONCURRENT
            for it in limits
        ):
            places = Debit(limit.scope, Measure.CONCURRENT)
            leases = self.leases[key_of(places, facts)].items()
            born = [created_ms(id_) for id_, ends in leases if ends > now]
            running = Running(
                len(born),
                min(born, default=now),
                typical.duration_ms,
                typical.refund * GRAINS,
            )
        if limit.measure is Measure.CONCURRENT:
            return waits.free_ms(now, promised, running)
        if limit.measure is Measure.CAPACITY:
            return waits.landed_ms(
                now,
                promised,
                missing=level + cost - limit.value,
                cost=cost,
                in_flight=level,
                duration_ms=typical.duration_ms,
            )
        return waits.refilled_ms(
            now,
            promised,
            missing=level + cost - Bucket.of(limit).capacity,
            cost=cost,
            rate=limit.value,
            running=running,
        )

    def promise(self, facts, limits, debits, delays):
        """What is told to a refused one, unless it never fits."""
        for limit, debit, wait in zip(limits, debits, delays, strict=True):
            if wait and not limit.shadow:
                self.promises[key_of(debit, facts)] = self.now_ms + int(wait)

    def level(self, debit, facts):
        key = key_of(debit, facts)
        used, at = self.levels.get(key, (0, self.now_ms))
        if debit.measure.is_bucket:
            return buckets.drain(used, debit.parameter, self.now_ms - at)
        if debit.measure is Measure.CONCURRENT:
            return sum(ends > self.now_ms for ends in self.leases[key].values())
        if debit.measure is Measure.CAPACITY:
            return self.flights[key].units
        return used

    def take(self, facts, event: ex.Reserve, start):
        """Everything has room; a further request has its place already."""
        id_ = event.exchange_id
        if event.ordinal > 1:
            self.advance(id_, facts, event, start)
            self.leases[shards.leases(self.number)][id_] = self.now_ms + self.lease_ms
            return
        for debit in self.debits(facts):
            if debit.measure is Measure.CONCURRENT:
                leases = self.leases[key_of(debit, facts)]
                for other, ends in list(leases.items()):
                    if ends <= self.now_ms:
                        del leases[other]
        self.advance(id_, facts, event, start)
        self.lease(id_, facts)

    def advance(self, id_, facts, event, start=None):
        before = self.exchanges.get(id_)
        outcome = ex.advance(before, event, self.now_ms)
        self.exchanges[id_] = outcome.stored
        if outcome.record is not None and not self.is_fleet:
            self.records.append(outcome.record)
        for debit in self.debits(facts):
            match debit.measure:
                case Measure.CONCURRENT:
                    continue
                case Measure.CAPACITY:
                    self._change_flight(before, outcome, debit, facts, start)
                case Measure.REQUESTS:
                    self._charge(debit, facts, outcome.requests * GRAINS)
                case Measure.UNITS:
                    grains = outcome.costs.units * GRAINS
                    if grains > 0:
                        grains = max(0, grains - debit.parameter * outcome.late_ms)
                    self._charge(debit, facts, grains)
                case _:
                    amount = outcome.costs.of_measure(debit.measure)
                    self._charge(debit, facts, amount)

    def _charge(self, debit, facts, amount):
        if not amount:
            return
        level = buckets.correct(self.level(debit, facts), amount)
        key = key_of(debit, facts)
        if not level:
            self.levels.pop(key, None)
        elif (
            debit.measure.is_bucket
            or forgotten_ms(debit.measure, debit.parameter) > self.now_ms
        ):
            self.levels[key] = level, self.now_ms

    def _change_flight(self, before, outcome, debit, facts, start):
        held = _held(outcome.stored) - _held(before)
        served = outcome.costs.units
        key = key_of(debit, facts)
        if before != outcome.stored:
            self.flights[key] = fairness.change(
                self.flights[key],
                facts.tenant,
                debit.parameter,
                held=held,
                served=served,
                counter=start,
            )

    def lease(self, id_, facts):
        for key in self._lease_keys(facts):
            self.leases[key][id_] = self.now_ms + self.lease_ms

    def drop_lease(self, id_, facts):
        for key in self._lease_keys(facts):
            self.leases[key].pop(id_, None)

    def _lease_keys(self, facts):
        yield shards.leases(self.number)
        for debit in self.debits(facts):
            if debit.measure is Measure.CONCURRENT:
                yield key_of(debit, facts)

    def expected(self):
        """Every key that has a value."""
        keys: dict[str, object] = {}
        for id_, stored in self.exchanges.items():
            if stored is not None:
                keys[shards.exchange(self.number, id_)] = exchange_text(stored)
        for key, (used, at) in self.levels.items():
            keys[key] = f"{used} {at}" if ":bucket:" in key else f"{used}"
        keys |= {key: members for key, members in self.leases.items() if members}
        for key, flight in self.flights.items():
            if flight.stakes:
                keys[key] = flight_fields(flight)
        if self.promises:
            promises = {key: str(due) for key, due in self.promises.items()}
            keys[shards.promises(self.number)] = promises
        keys |= self._sums()
        if self.records:
            outbox = [outbox_entry(record) for record in self.records]
            keys[shards.outbox(self.number)] = outbox
        return keys

    def _sums(self):
        sums: dict[str, Counter[str]] = defaultdict(Counter)
        for record in self.records:
            hour = record.ended_ms // 3_600_000
            of_hour = sums[shards.settled(self.number, record.facts.tenant, hour)]
            model = record.facts.served_model
            for name, count in zip(SERIES, counts(record.usage), strict=True):
                if count:
                    of_hour[f"{model}|{name}"] += count
            if record.kind is not UsageKind.ADJUSTMENT:
                of_hour[f"{model}|exchanges"] += 1
        return {
            key: {name: str(count) for name, count in of_hour.items()}
            for key, of_hour in sums.items()
            if of_hour
        }


def _held(stored):
    return stored.charged.units if isinstance(stored, ex.Reserved) else 0


class Model:
    """Every slot, as Python values; `now_ms` is their clock."""

    def __init__(self, tenants, now_ms, lease_ms):
        numbers = {shards.FLEET, *map(shards.shard, tenants)}
        self.slots = {number: Slot(number, lease_ms=lease_ms) for number in numbers}
        self.now_ms = now_ms

    @property
    def now_ms(self):
        return self.slots[shards.FLEET].now_ms

    @now_ms.setter
    def now_ms(self, now_ms):
        for slot in self.slots.values():
            slot.now_ms = now_ms

    def of_tenant(self, facts):
        return self.slots[shards.shard(facts.tenant)]

    @property
    def fleet(self):
        return self.slots[shards.FLEET]

    def slots_of(self, facts: Facts):
        """Where an exchange is charged."""
        yield self.of_tenant(facts)
        if any(debit.scope.is_fleet for debit in facts.debits):
            yield self.fleet

    @property
    def records(self):
        return [record for slot in self.slots.values() for record in slot.records]

    def reserve(self, reservation: Reservation) -> Granted | Refused:
        """In the fleet first; what it took is given back when the tenant has no room.

        Raises Over.
        """
        limits = reservation.limits
        levels: list[int | None] = [None] * len(limits)
        facts, shadowed = reservation.whole, list[int]()
        slots = [self.of_tenant(facts)]
        if any(limit.scope.is_fleet for limit in limits):
            slots.insert(0, self.fleet)
        for slot in slots:
            mine = [
                n for n, it in enumerate(limits) if it.scope.is_fleet == slot.is_fleet
            ]
            try:
                told = slot.ask(reservation, [limits[n] for n in mine], facts)
            except Over:
                self._give_back(reservation, slots[0], slot)
                raise
            for n, level in zip(mine, told.levels, strict=True):
                levels[n] = level
            if told.binding is not None:
                self._give_back(reservation, slots[0], slot)
                return room.refused(limits, levels, mine[told.binding], told.wait_ms)
            facts = told.facts
            shadowed += (mine[n] for n in told.shadowed)
        return room.granted(
            limits, [level or 0 for level in levels], facts.debits, shadowed
        )

    def _give_back(self, reservation, first, refusing):
        """What the fleet took for one that a tenant's limits refuse, with no trace.

        But what it took of a further request: the exchange goes on.
        """
        id_ = reservation.exchange_id
        stored = first.exchanges.get(id_)
        if first is refusing or not isinstance(stored, ex.Reserved):
            return
        if reservation.so_far is not None:
            return
        self._release(first, id_)
        first.exchanges[id_] = None

    def beat(self, beat: ex.Beat) -> None:
        for slot in self.slots_of(beat.facts):
            slot.advance(beat.exchange_id, beat.facts, beat)
            stored = slot.exchanges.get(beat.exchange_id)
            runs = self.now_ms - beat.at_ms < slot.lease_ms
            if isinstance(stored, ex.Reserved) or (
                isinstance(stored, ex.Abandoned) and runs
            ):
                slot.lease(beat.exchange_id, beat.facts)

    def settle(self, settlement: ex.Settlement) -> None:
        for slot in self.slots_of(settlement.facts):
            is_over = isinstance(slot.exchanges.get(settlement.exchange_id), ex.Settled)
            slot.advance(settlement.exchange_id, settlement.facts, settlement)
            if not is_over:
                slot.drop_lease(settlement.exchange_id, settlement.facts)

    def release_by_worker(self, reservation: Reservation) -> None:
        """Who knows which slots it asked."""
        if any(limit.scope.is_fleet for limit in reservation.limits):
            self._release(self.fleet, reservation.exchange_id)
        self._release(self.of_tenant(reservation.facts), reservation.exchange_id)

    def release_by_ledger(self, id_: str, tenant: str) -> None:
        """Who knows the id and the tenant alone; the rest is in what is stored."""
        if self.fleet.exchanges.get(id_) is not None:
            self._release(self.fleet, id_)
        self._release(self.slots[shards.shard(tenant)], id_)

    def _release(self, slot, id_):
        stored = slot.exchanges.get(id_)
        facts: Facts | None = None
        if isinstance(stored, ex.Reserved):
            facts = stored.facts
        elif isinstance(stored, ex.Abandoned):
            facts = stored.record.facts
        event = ex.Release(id_, "")
        if facts is None:
            slot.exchanges[id_] = ex.advance(stored, event, self.now_ms).stored
            if not isinstance(stored, ex.Settled):
                slot.leases[shards.leases(slot.number)].pop(id_, None)
        else:
            slot.advance(id_, facts, event)
            slot.drop_lease(id_, facts)

    def reap(self, slot: Slot, id_: str) -> None:
        stored = slot.exchanges.get(id_)
        leases = slot.leases[shards.leases(slot.number)]
        if isinstance(stored, ex.Reserved):
            of_tenant = self.of_tenant(stored.facts).exchanges.get(id_)
            if slot.is_fleet and isinstance(of_tenant, ex.Released):
                self._release(slot, id_)  # it came in late, and was never admitted
                return
            if leases.get(id_, 0) > self.now_ms:
                return
            slot.advance(id_, stored.facts, ex.Reap(id_))
            slot.drop_lease(id_, stored.facts)
        elif isinstance(stored, ex.Abandoned):
            slot.drop_lease(id_, stored.record.facts)
        else:
            leases.pop(id_, None)
            slot.exchanges[id_] = ex.advance(stored, ex.Reap(id_), self.now_ms).stored

    def expected(self) -> dict[str, object]:
        """Every key of every slot that has a value."""
        keys: dict[str, object] = {}
        for slot in self.slots.values():
            keys |= slot.expected()
        return keys
