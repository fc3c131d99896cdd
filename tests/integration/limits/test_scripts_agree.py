"""The Lua scripts and the pure reference do the same, whatever comes in any order."""

import dataclasses
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from tests.integration.limits.keys import dump
from tests.integration.limits.model import Model, Over, key_of
from tests.integration.limits.rig import Rig, ask, new_id
from tollhouse.adapters.redis import shards
from tollhouse.core.exchange import (
    RESTORE_MS,
    Abandoned,
    Beat,
    Release,
    Reserved,
    Settled,
    Settlement,
)
from tollhouse.core.ids import created_ms
from tollhouse.core.limits import Allowance, Limit, Measure, Scope
from tollhouse.core.periods import forgotten_ms
from tollhouse.core.problems import Unavailable
from tollhouse.core.reservation import Granted, Typical, further_limits
from tollhouse.core.room import Costs, debit
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

TENANTS = ("acme", "zeta")
LEASE_MS = 20_000
BERLIN, UTC_ZONE = "Europe/Berlin", "UTC"
START_MS = round(datetime(2027, 1, 31, 22, 30, tzinfo=UTC).timestamp() * 1000)
"""Soon a month ends in Berlin, an hour later everywhere else."""
EXAMPLES = 100
MOST_EXCHANGES = 8
"""Few, so that many events hit the same one."""


def limits(key=None, tenant=None, *, model=None, fleet=None, all_=None, capacity=None):
    """All limits of an exchange, in any order: here the fleet's in between."""
    nothing = Allowance()
    return (
        *(key or nothing).limits(Scope.KEY, BERLIN),
        *(fleet or nothing).limits(Scope.MODEL, UTC_ZONE),
        *(tenant or nothing).limits(Scope.TENANT, BERLIN),
        *(capacity or ()),
        *(model or nothing).limits(Scope.TENANT_MODEL, UTC_ZONE),
        *(all_ or nothing).limits(Scope.GLOBAL, UTC_ZONE),
    )


def capacity(value, weight=1, *, shadow=False):
    measure = Measure.CAPACITY
    return (Limit(Scope.MODEL, measure, value, weight=weight, shadow=shadow),)


KEY = Allowance(18, 3000, 2)
TENANT_MODEL = Allowance(requests_per_minute=24, units_per_minute=3600, concurrent=3)
FLEET = Allowance(24, 4500, 3)
BUDGETS = Allowance(
    units_per_day=900, units_per_month=1500, money_per_day=4000, money_per_month=6000
)
EVERYTHING = Allowance(60, 4500, 4, 900, 1500, 4000, 6000)
SHADOW = Allowance(12, 1200, 1, 300, 400, 900, 1200, shadow=True)
ROOMY = Allowance(600, 60_000, 8, money_per_day=1_000_000)
"""Further requests of a stream find room, too."""
PLANS = (
    limits(ROOMY, model=ROOMY, fleet=ROOMY),
    limits(KEY, model=TENANT_MODEL),
    limits(
        KEY,
        TENANT_MODEL,
        model=TENANT_MODEL,
        fleet=FLEET,
        all_=FLEET,
        capacity=capacity(400),
    ),
    limits(EVERYTHING, EVERYTHING, model=EVERYTHING, fleet=EVERYTHING, all_=EVERYTHING),
    limits(tenant=BUDGETS, all_=BUDGETS),
    limits(
        SHADOW, model=TENANT_MODEL, fleet=SHADOW, capacity=capacity(300, shadow=True)
    ),
    limits(KEY, SHADOW, all_=SHADOW),
    limits(capacity=capacity(400, 3)),
    limits(capacity=capacity(400)),
    limits(Allowance(units_per_minute=60, burst_seconds=0.5), fleet=KEY),
    limits(KEY, all_=Allowance(concurrent=0)),
    limits(Allowance(money_per_day=0)),
    limits(fleet=FLEET, all_=Allowance(units_per_day=0, shadow=True)),
    (),
)

plans = st.one_of(st.sampled_from(PLANS[:5]), st.sampled_from(PLANS))
costs = st.tuples(
    st.sampled_from([(1, 0, 5), (1, 1, 1), (3, 2, 7)]),
    st.sampled_from([(0, 0, 0), (2, 1, 9), (30, 5, 90)]),
)
tokens = st.integers(0, 120)
usages = st.builds(TokenUsage, tokens, tokens, tokens, tokens)
sources = st.sampled_from(CountSource)
kinds = st.sampled_from([UsageKind.FINAL, UsageKind.PARTIAL])
offsets = st.sampled_from([-4_000_000, -700_000, -5000, -1, 0, 1, 5000, 3_600_000])


class Exchanges(RuleBasedStateMachine):
    """Any event may hit any exchange at any time."""

    rig: Rig
    ids = Bundle("ids")

    def __init__(self):
        super().__init__()
        self.limiter = self.rig.limiter(LEASE_MS / 1000, START_MS)
        self.model = Model(TENANTS, START_MS, LEASE_MS)
        self.reservations = {}
        self.further = {}
        self.stopped = set()
        self.settled = {}
        self.debits = {}
        self.ended = {}
        self.periods = {}
        self.keys = {}
        self.lost = False

    @initialize(
        target=ids,
        plan=plans,
        costs=costs,
        units=st.lists(st.integers(100, 300), min_size=4, max_size=4),
    )
    def begin(self, plan, costs, units):
        """Some come at once, and ask for much of the same."""
        names = TENANTS[0], "k1", "m1"
        asked = [
            (names, plan, units[0], costs, 0),
            (names, plan, units[1], costs, 0),
            ((TENANTS[1], "k1", "m1"), plan, units[2], costs, 0),
            (names, plan, units[3], costs, 0),
        ]
        return multiple(*(self._appear(*it, Typical(9000, 50)) for it in asked))

    @precondition(lambda self: len(self.reservations) < MOST_EXCHANGES)
    @rule(
        target=ids,
        plan=plans,
        names=st.tuples(
            st.sampled_from(TENANTS),
            st.sampled_from(["k1", "k2"]),
            st.sampled_from(["m1", "m2"]),
        ),
        units=st.integers(0, 400),
        costs=costs,
        age_ms=st.sampled_from([None, 0, 0, 3_600_000, 90_000_000]),
        typical=st.builds(Typical, st.sampled_from([0, 500, 9000]), st.integers(0, 99)),
    )
    def appear(self, *, names, plan, units, costs, age_ms, typical):
        """It may have been made when other periods were; None: it is not reserved."""
        return self._appear(names, plan, units, costs, age_ms, typical)

    def _appear(self, names, plan, units, costs, age_ms, typical):  # noqa: PLR0917
        tenant, key_id, model = names
        id_ = new_id(len(self.reservations), self.rig.now_ms - (age_ms or 0))
        asked = ask(
            id_,
            *plan,
            tenant=tenant,
            key_id=f"{tenant}-{key_id}",
            served_model=model,
            reserved_units=units,
            input_estimate=units // 2,
            weights=costs[0],
            prices=costs[1],
        )
        self.reservations[id_] = dataclasses.replace(
            asked, typical=typical, margin=units // 20
        )
        if age_ms is not None:
            self.reserve(id_, is_held=bool(units % 2))
        return id_

    @rule(id_=ids, is_held=st.booleans())
    def reserve(self, id_, is_held):
        reservation = self.reservations[id_]
        reservation = dataclasses.replace(reservation, is_held=is_held)
        try:
            expected = self.model.reserve(reservation)
        except Over:
            with pytest.raises(Unavailable) as caught:
                self.rig.reserve(self.limiter, reservation)
            assert not caught.value.transient
            return
        actual = self.rig.reserve(self.limiter, reservation)

        assert expected == actual
        if isinstance(actual, Granted):
            self.debits[id_] = actual.debits

    def told(self, id_):
        """The facts as the ledger has them: with what the limiter charged.

        Or might have charged, where it never answered.
        """
        reservation = self.reservations[id_]
        if id_ not in self.debits:
            at_ms = self.rig.now_ms
            self.debits[id_] = tuple(
                debit(limit, at_ms) for limit in reservation.limits if limit.value
            )
        latest = self.further.get(id_, reservation)
        return replace(latest.whole, debits=self.debits[id_])

    @rule(
        id_=ids,
        units=st.integers(0, 300),
        is_repeat=st.booleans(),
        is_held=st.booleans(),
    )
    def reserve_further(self, id_, units, is_repeat, is_held):
        """A further request of a stream, which ends with the first that is refused.

        Of one that Redis never heard of, too: it was admitted without it.
        """
        if id_ in self.stopped:
            return
        first = self.reservations[id_]
        reservation = self.further.get(id_, first)
        if reservation is first or not is_repeat:
            so_far = self.told(id_)
            reservation = dataclasses.replace(
                first,
                facts=replace(
                    first.facts, reserved_units=units, input_estimate=units // 2
                ),
                limits=further_limits(first.limits, so_far),
                is_held=is_held,
                ordinal=reservation.ordinal + 1,
                so_far=so_far,
            )
        try:
            expected = self.model.reserve(reservation)
        except Over:
            with pytest.raises(Unavailable) as caught:
                self.rig.reserve(self.limiter, reservation)
            assert not caught.value.transient
            return
        actual = self.rig.reserve(self.limiter, reservation)

        assert expected == actual
        if isinstance(actual, Granted):
            self.further[id_] = reservation
        else:
            self.stopped.add(id_)

    @rule(id_=ids, usage=usages, sources=st.tuples(sources, sources), offset=offsets)
    def beat(self, id_, usage, sources, offset):
        at_ms = self.rig.now_ms + min(offset, 0)
        beat = Beat(
            exchange_id=id_,
            facts=self.told(id_),
            usage=usage,
            input_source=sources[0],
            output_source=sources[1],
            started_ms=at_ms - 1000,
            first_ms=at_ms - 500,
            at_ms=at_ms,
        )
        self.model.beat(beat)
        self.rig.run(self.limiter.beat_many([beat]))

    @rule(id_=ids, usage=usages, kind=kinds, source=sources, offset=offsets)
    def settle(self, id_, usage, kind, source, offset):
        ended_ms = self.rig.now_ms + offset
        settlement = Settlement(
            exchange_id=id_,
            facts=self.told(id_),
            kind=kind,
            usage=usage,
            input_source=source,
            output_source=source,
            started_ms=ended_ms - 2000,
            first_ms=0,
            ended_ms=ended_ms,
            flags="DC" if kind is UsageKind.PARTIAL else "",
        )
        for slot in self.model.slots_of(settlement.facts):
            self._end(slot, id_, settlement)
        wrote = len(self.model.records)
        self.model.settle(settlement)
        written = self.rig.run(self.limiter.settle_many([settlement]))

        self.settled.setdefault(id_, usage)
        if len(self.model.records) > wrote:
            assert [settlement] == written

    @rule(id_=ids)
    def release_by_worker(self, id_):
        if id_ not in self.settled:
            self._take_back(id_)
            self.model.release_by_worker(self.reservations[id_])
            self.rig.run(self.limiter.release(self.reservations[id_]))

    @rule(id_=ids)
    def release_by_ledger(self, id_):
        if id_ not in self.settled:
            self._take_back(id_)
            tenant = self.reservations[id_].facts.tenant
            self.model.release_by_ledger(id_, tenant)
            self.rig.run(self.limiter.apply([Release(id_, tenant)], [], []))

    def _take_back(self, id_):
        """What was reaped and turns out never to have been admitted cost nothing."""
        tenant = self.model.of_tenant(self.reservations[id_].facts)
        for slot in (tenant, self.model.fleet):
            stored = slot.exchanges.get(id_)
            if isinstance(stored, Abandoned):
                self.ended[slot.number, id_] = Costs(0, 0), stored.record.facts
                if slot is tenant:
                    self.settled[id_] = TokenUsage()

    def _end(self, slot, id_, settlement):
        """What it costs in the end, if this ends it."""
        stored = slot.exchanges.get(id_)
        if isinstance(stored, Settled):
            return
        about, usage = settlement.facts, settlement.usage
        costs = Costs(usage.units(about.weights), usage.units(about.prices))
        born_ms = created_ms(id_)
        ended_ms = min(max(settlement.ended_ms, born_ms), self.rig.now_ms)
        if stored is None and self.rig.now_ms - ended_ms > RESTORE_MS:
            costs = Costs(0, 0)
        self.ended[slot.number, id_] = costs, about

    @rule(
        id_=ids,
        of_fleet=st.booleans(),
        after_ms=st.sampled_from([0, LEASE_MS - 1, LEASE_MS]),
    )
    def reap(self, id_, of_fleet, after_ms):
        self.pass_time(after_ms)
        slot = self.model.of_tenant(self.reservations[id_].facts)
        if of_fleet:
            slot = self.model.fleet
        self.model.reap(slot, id_)
        self.rig.run(self.rig.reaper.reap([(slot.number, id_)]))

    @rule(id_=ids, of_fleet=st.booleans())
    def lose(self, id_, of_fleet):
        """Redis loses a reservation, of one that is open: nothing is doubled then."""
        slot = self.model.of_tenant(self.reservations[id_].facts)
        if of_fleet:
            slot = self.model.fleet
        if isinstance(slot.exchanges.get(id_), Reserved):
            self.lost = True
            slot.exchanges[id_] = None
            self.rig.inspector.delete(shards.exchange(slot.number, id_))

    @rule(which=st.integers(0, 99))
    def lose_limit(self, which):
        """Redis loses what is known of a limit: it starts anew."""
        slots = self.model.slots.values()
        state = [
            (it, key)
            for slot in slots
            for it in (slot.levels, slot.flights)
            for key in it
        ]
        if state:
            self.lost = True
            levels, key = state[which % len(state)]
            del levels[key]
            self.rig.inspector.delete(key)

    @rule(
        ms=st.sampled_from(
            [-1000, 1, 33, 1000, LEASE_MS, 700_000, 3_600_000, 90_000_000, 500_000_000]
        )
    )
    def pass_time(self, ms):
        self.rig.move(ms)
        self.model.now_ms = self.rig.now_ms

    @precondition(lambda self: self.reservations)
    @rule()
    def restart(self):
        """Redis forgets its scripts."""
        self.rig.inspector.script_flush()

    @invariant()
    def agree(self):
        self.keys = keys = dump(self.rig.inspector)

        assert self.model.expected() == keys
        for key, value in keys.items():
            if ":bucket:" in key or ":budget:" in key:
                assert min(map(int, value.split())) >= 0
            elif ":inflight:" in key:
                assert (
                    min(int(it) for text in value.values() for it in text.split()) >= 0
                )

    @invariant()
    def balanced(self):
        """Budgets hold what open and settled exchanges cost, each in its own period."""
        if self.lost:
            return
        budgets: Counter[str] = Counter()
        flying: Counter[str] = Counter()
        for slot in self.model.slots.values():
            for id_, stored in slot.exchanges.items():
                match stored:
                    case Reserved(about, charged):
                        pass
                    case Abandoned(charged, record):
                        about = record.facts
                    case Settled():
                        charged, about = self.ended[slot.number, id_]
                    case _:
                        continue
                for it in slot.debits(about):
                    key = key_of(it, about)
                    self.periods[key] = it
                    if it.measure.is_budget and not self.forgotten(it):
                        budgets[key] += charged.of_measure(it.measure)
                    elif (
                        isinstance(stored, Reserved) and it.measure is Measure.CAPACITY
                    ):
                        flying[key] += charged.units
        keys = self.keys
        spent = {
            key: int(value)
            for key, value in keys.items()
            if ":budget:" in key and not self.forgotten(self.periods[key])
        }
        in_flight = {
            key: int(value["*"].split()[0])
            for key, value in keys.items()
            if ":inflight:" in key
        }

        assert +budgets == spent
        assert +flying == in_flight

    def forgotten(self, it):
        return forgotten_ms(it.measure, it.parameter) <= self.rig.now_ms

    def teardown(self):
        """However it went: one record each, right in sum, and nothing is held."""
        for id_ in self.reservations:
            if id_ not in self.settled:
                self.settle(
                    id_, TokenUsage(7, 3), UsageKind.FINAL, CountSource.METER, 0
                )
            mine = [
                record
                for record in self.model.records
                if id_ in (record.record_id, record.corrects)
            ]
            total = TokenUsage()
            for record in mine:
                total = total - (TokenUsage() - record.usage)
            assert 1 == sum(it.kind is not UsageKind.ADJUSTMENT for it in mine)
            assert self.settled[id_] == total
            # One all of whose limits were in shadow and full has nothing to settle.
            self.reap(id_, of_fleet=True, after_ms=LEASE_MS)
        self.agree()
        # Of what was lost, leases that ended stay until the next RESERVE.
        held = ("leases",) if self.lost else _HELD
        keys = dump(self.rig.inspector)
        assert [] == [key for key in keys if key.split(":")[1] in held]


_HELD = ("leases", "concurrent", "inflight")


def test_scripts_and_reference_agree(rig):
    """Every key in Redis and every answer is what the pure reference says."""

    class Machine(Exchanges):
        pass

    Machine.rig = rig
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
