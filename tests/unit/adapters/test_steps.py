"""Which keys each step touches: in a cluster they must be of one slot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.integration.limits.rig import ask, new_id
from tollhouse.adapters.redis import shards
from tollhouse.adapters.redis.shards import FLEET, SHARDS, crc16
from tollhouse.adapters.redis.steps import Scripts, Steps, sides, slots
from tollhouse.core.exchange import Beat, nothing_used
from tollhouse.core.limits import Allowance, Limit, Measure, Scope
from tollhouse.core.usage import CountSource, TokenUsage

NOW = 1_800_000_000_000
LEASE_MS = 20_000
ALL = Allowance(1, 2, 3, 4, 5, 6, 7)
LIMITS = (
    *(it for scope in Scope for it in ALL.limits(scope, "Europe/Berlin")),
    Limit(Scope.MODEL, Measure.CAPACITY, 8, weight=9),
)
names = st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)
models = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,60}", fullmatch=True)


def cluster_slot(key):
    """https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/."""
    tag = key.partition("{")[2].partition("}")[0]
    return crc16(tag.encode()) % 16_384


def runs(tenant, model, limits=LIMITS):
    """Every run of every step of one exchange, with its slot."""
    steps = Steps(Scripts.load())
    id_ = new_id(1, NOW)
    reservation = ask(id_, *limits, tenant=tenant, served_model=model)
    found = sides(reservation, NOW)
    for side in found:
        yield side.slot, steps.reserve(reservation, side, (), LEASE_MS)
    facts = replace(
        reservation.facts, debits=tuple(it for side in found for it in side.debits)
    )
    beat = Beat(
        exchange_id=id_,
        facts=facts,
        usage=TokenUsage(),
        input_source=CountSource.METER,
        output_source=CountSource.METER,
        started_ms=NOW,
        first_ms=0,
        at_ms=NOW,
    )
    for slot in slots(facts):
        yield slot, steps.beat(slot, beat, LEASE_MS)
        for writing in (
            steps.settle(slot, nothing_used(id_, facts, NOW, NOW)),
            steps.reap(slot, id_, facts, NOW),
        ):
            assert slot == writing.slot
            yield slot, writing.run(writing.hour)
        yield slot, steps.release(slot, id_, facts, 1000)
        yield slot, steps.release(slot, id_, None, 1000)


@given(tenant=names, model=models)
def test_the_keys_of_a_run_share_a_slot(tenant, model):
    """Whatever tenants and models are called: else Redis Cluster runs nothing."""
    found = {}
    for slot, (_, keys, _) in runs(tenant, model):
        (of_cluster,) = set(map(cluster_slot, keys))
        assert cluster_slot(shards.leases(slot)) == of_cluster
        assert len(keys) == len(set(keys)), "each limit has a key of its own"
        found[slot] = of_cluster

    assert {shards.shard(tenant), FLEET} == set(found)


def test_every_slot_has_a_tag_of_its_own():
    """So that a cluster can spread them."""
    tags = {shards.tag(slot) for slot in range(SHARDS + 1)}

    assert SHARDS + 1 == len(tags) == len(set(map(cluster_slot, tags)))


def test_without_limits_of_the_fleet_its_slot_is_left_alone():
    own = tuple(it for it in LIMITS if not it.scope.is_fleet)

    assert {shards.shard("acme")} == {slot for slot, _ in runs("acme", "m1", own)}


@pytest.mark.parametrize("script", ["reserve", "beat", "settle", "release", "reap"])
def test_no_script_makes_up_a_key(script):
    """Every key is passed in: some services refuse keys a script builds."""
    source = getattr(Scripts.load(), script).source

    assert "'{" not in source
    assert '"{' not in source
    for called in source.split("redis.call(")[1:]:
        _, _, key = called.partition(",")
        first = key.strip().split(",")[0].strip(" )\n")
        assert first.startswith(
            ("KEYS[", "unpack(KEYS", "key", "leases", "promises", "outbox", "settled")
        ) or called.startswith("'TIME'"), first
