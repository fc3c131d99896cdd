"""The Lua scripts and the pure reference do the same, whatever comes in any order."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.integration.limits.model import Model, dump, shard_of
from tests.integration.limits.rig import START_MS, Rig, facts, new_id
from tollhouse.core.exchange import Abandoned, Beat, Release, Reserved, Settlement
from tollhouse.core.limits import Allowance, Reservation
from tollhouse.core.problems import Unavailable
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

TENANT = "acme"
SHARD = shard_of(TENANT)
LEASE_MS = 20_000
KEY = Allowance(120, 3000, 3)
TENANT_MODEL = Allowance(requests_per_minute=180, units_per_minute=4500, concurrent=4)
MOST_EXCHANGES = 8
"""Few, so that many events hit the same one."""
PLANS = (
    (KEY, TENANT_MODEL),
    (KEY, TENANT_MODEL),
    (Allowance(), TENANT_MODEL),
    (KEY, Allowance()),
    (Allowance(units_per_minute=60, burst_seconds=0.5), TENANT_MODEL),
    (KEY, Allowance(concurrent=0)),
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
        self.limiter = self.rig.limiter(LEASE_MS / 1000)
        self.model = Model(SHARD, START_MS, LEASE_MS)
        self.reservations = {}
        self.settled = {}

    @precondition(lambda self: len(self.reservations) < MOST_EXCHANGES)
    @rule(
        target=ids,
        plan=st.sampled_from(PLANS),
        names=st.tuples(st.sampled_from(["k1", "k2"]), st.sampled_from(["m1", "m2"])),
        units=st.integers(0, 400),
        weights=st.sampled_from([(1, 0, 5), (1, 1, 1), (3, 2, 7)]),
        reserved=st.sampled_from([True, True, True, False]),
    )
    def appear(self, plan, names, units, weights, reserved):
        id_ = new_id(len(self.reservations), self.rig.now_ms)
        about = facts(
            *plan,
            key_id=names[0],
            served_model=names[1],
            reserved_units=units,
            input_estimate=units // 2,
            weights=weights,
        )
        self.reservations[id_] = Reservation(id_, about, *plan)
        if reserved:
            self.reserve(id_)
        return id_

    @rule(id_=ids)
    def reserve(self, id_):
        reservation = self.reservations[id_]
        expected = self.model.reserve(reservation)
        if expected is None:
            with pytest.raises(Unavailable) as caught:
                self.rig.run(self.limiter.reserve(reservation))
            assert not caught.value.transient
            return
        actual = self.rig.run(self.limiter.reserve(reservation))

        assert expected == actual

    @rule(id_=ids, usage=usages, sources=st.tuples(sources, sources), offset=offsets)
    def beat(self, id_, usage, sources, offset):
        at_ms = self.rig.now_ms + min(offset, 0)
        beat = Beat(
            exchange_id=id_,
            facts=self.reservations[id_].facts,
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
            facts=self.reservations[id_].facts,
            kind=kind,
            usage=usage,
            input_source=source,
            output_source=source,
            started_ms=ended_ms - 2000,
            first_ms=0,
            ended_ms=ended_ms,
            flags="DC" if kind is UsageKind.PARTIAL else "",
        )
        wrote = len(self.model.records)
        self.model.settle(settlement)
        written = self.rig.run(self.limiter.settle_many([settlement]))

        self.settled.setdefault(id_, usage)
        if len(self.model.records) > wrote:
            assert {SHARD} == written

    @rule(id_=ids)
    def release_by_worker(self, id_):
        if id_ not in self.settled:
            self._take_back(id_)
            about = self.reservations[id_].facts
            self.model.release_known(id_, about)
            self.rig.run(self.limiter.release(self.reservations[id_]))

    @rule(id_=ids)
    def release_by_ledger(self, id_):
        if id_ not in self.settled:
            self._take_back(id_)
            self.model.release(id_, self.reservations[id_].facts)
            self.rig.run(self.limiter.apply([Release(id_, TENANT)], [], []))

    def _take_back(self, id_):
        """What was reaped and turns out never to have been admitted cost nothing."""
        if isinstance(self.model.exchanges.get(id_), Abandoned):
            self.settled[id_] = TokenUsage()

    @rule(id_=ids, after_ms=st.sampled_from([0, LEASE_MS - 1, LEASE_MS]))
    def reap(self, id_, after_ms):
        self.pass_time(after_ms)
        self.model.reap(id_, self.reservations[id_].facts)
        self.rig.run(self.limiter.reap([(SHARD, id_)]))

    @rule(id_=ids)
    def lose(self, id_):
        """Redis loses a reservation, of one that is open: nothing is doubled then."""
        if isinstance(self.model.exchanges.get(id_), Reserved):
            self.model.lose(id_)
            self.rig.inspector.delete(f"{{s{SHARD}}}:exchange:{id_}")

    @rule(ms=st.sampled_from([1, 33, 1000, LEASE_MS, 700_000, 3_600_000]))
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
        assert self.model.expected() == dump(self.rig.inspector, SHARD)

    def teardown(self):
        """However it went: one record each, right in sum, and nothing is held."""
        for id_, reservation in self.reservations.items():
            if id_ not in self.settled:
                self.settle(
                    id_, TokenUsage(7, 3), UsageKind.FINAL, CountSource.METER, 0
                )
            assert self.model.exchanges[id_] is not None
            mine = [
                record
                for record in self.model.records
                if id_ in (record.record_id, record.corrects)
            ]
            total = TokenUsage()
            for record in mine:
                total = replace(TokenUsage(), **_sum(total, record.usage))
            assert 1 == sum(it.kind is not UsageKind.ADJUSTMENT for it in mine)
            assert self.settled[id_] == total
            assert reservation.facts == mine[0].facts
        held = dump(self.rig.inspector, SHARD)
        assert [] == [key for key in held if key.startswith(("leases", "concurrent"))]


def _sum(one, other):
    return {name: getattr(one, name) + getattr(other, name) for name in one.__slots__}


def test_scripts_and_reference_agree(rig):
    """Every key in Redis and every answer is what the pure reference says."""

    class Machine(Exchanges):
        pass

    Machine.rig = rig
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


pytestmark = pytest.mark.timeout(90)
