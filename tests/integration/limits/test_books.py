"""What the limits were charged is what was used, however exchanges went."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.limits.model import shard_of
from tests.integration.limits.rig import START_MS, facts, new_id
from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.limits import GRAINS, Allowance, Granted, Reservation
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

SHARD = shard_of("acme")
WIDE = Allowance(600, 60_000, burst_seconds=1e7)
BUSY = 10**12
"""Grains that no run here drains: buckets never rest, so sums are exact."""

fates = st.fixed_dictionaries(
    {
        "reserved": st.integers(0, 500),
        "beats": st.lists(st.integers(0, 800), max_size=3),
        "fate": st.sampled_from(["settle", "reap", "reap and settle", "release"]),
        "used": st.integers(0, 800),
        "repeats": st.integers(1, 2),
    }
)


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    plans=st.lists(fates, min_size=1, max_size=6),
    turns=st.lists(st.integers(0, 5), max_size=40),
    pause_ms=st.integers(0, 900),
)
def test_only_what_was_settled_is_charged(rig, plans, turns, pause_ms):
    """Interleaved with time passing: used = before + settled - drained, to the grain.

    Released exchanges cost nothing, not even their request; reaped ones keep what they
    had taken; nothing is counted twice.
    """
    limiter = rig.limiter(lease_seconds=0.0)
    keys = [
        f"{{s{SHARD}}}:bucket:{owner}:{what}"
        for owner in ("key:k1", "model:acme:m1")
        for what in ("requests", "units")
    ]
    rig.inspector.mset(dict.fromkeys(keys, f"{BUSY} {START_MS}"))
    lives = [life(rig, limiter, new_id(n), plan) for n, plan in enumerate(plans)]
    for turn in turns:
        next(lives[turn % len(lives)], None)
        rig.move(pause_ms)
    charged = requests = 0
    for remaining, plan in zip(lives, plans, strict=True):
        for _ in remaining:
            pass
        charged += owed(plan)
        requests += plan["fate"] != "release"
    # A last reservation of nothing drains the buckets up to now.
    rig.run(limiter.reserve(reservation(new_id(99), 0)))
    passed_ms = rig.now_ms - START_MS

    used = [int(text.split()[0]) for text in rig.inspector.mget(keys)]
    of_requests = BUSY + (requests + 1) * GRAINS - 600 * passed_ms
    of_units = BUSY + charged * GRAINS - 60_000 * passed_ms
    assert [of_requests, of_units] * 2 == used


def owed(plan):
    match plan["fate"]:
        case "release":
            return 0
        case "reap":
            return max(plan["reserved"], *plan["beats"], 0)
        case _:
            return plan["used"]


def reservation(id_, units):
    about = facts(WIDE, WIDE, reserved_units=units, weights=(1, 1, 1))
    return Reservation(id_, about, WIDE, WIDE)


def life(rig, limiter, id_, plan):
    """The steps of one exchange, some twice, one per turn."""
    mine = reservation(id_, plan["reserved"])
    for _ in range(plan["repeats"]):
        assert isinstance(rig.run(limiter.reserve(mine)), Granted)
        yield
    if plan["fate"] == "release":
        for _ in range(plan["repeats"]):
            rig.run(limiter.apply([Release(id_, "acme")], [], []))
            yield
        return
    for tokens in plan["beats"]:
        beat = Beat(
            exchange_id=id_,
            facts=mine.facts,
            usage=TokenUsage(tokens),
            input_source=CountSource.BACKEND,
            output_source=CountSource.METER,
            started_ms=START_MS,
            first_ms=0,
            at_ms=rig.now_ms,
        )
        rig.run(limiter.beat_many([beat] * plan["repeats"]))
        yield
    if plan["fate"].startswith("reap"):
        for _ in range(plan["repeats"]):
            rig.run(limiter.reap([(SHARD, id_)]))
            yield
    if plan["fate"].endswith("settle"):
        settlement = Settlement(
            exchange_id=id_,
            facts=mine.facts,
            kind=UsageKind.FINAL,
            usage=TokenUsage(output_tokens=plan["used"]),
            input_source=CountSource.BACKEND,
            output_source=CountSource.BACKEND,
            started_ms=START_MS,
            first_ms=0,
            ended_ms=rig.now_ms,
            flags="",
        )
        rig.run(limiter.settle_many([settlement] * plan["repeats"]))
        yield


def test_no_minute_holds_more_than_limit_and_burst(rig):
    """A greedy client gets, in any 60 s, at most the limit and the burst."""
    allowance = Allowance(units_per_minute=1200, burst_seconds=15)
    limiter = rig.limiter(lease_seconds=1000)
    admitted = []
    for number in range(2000):
        about = facts(allowance, Allowance(), reserved_units=1 + number * 7 % 90)
        mine = Reservation(new_id(number), about, allowance, Allowance())
        if isinstance(rig.run(limiter.reserve(mine)), Granted):
            admitted.append((rig.now_ms, about.reserved_units))
        rig.move(100)
    worst = max(
        sum(units for at, units in admitted if start <= at < start + 60_000)
        for start, _ in admitted
    )
    total = sum(units for _, units in admitted)

    assert worst <= 1200 + 300
    assert total >= 0.97 * 1200 * 200 / 60, "and it gets what it pays for"


def test_a_lease_counts_until_it_ends(rig):
    """To the millisecond: then its place is free, and it may be reaped."""
    allowance = Allowance(concurrent=1)
    limiter = rig.limiter(lease_seconds=20.0)
    first, second = (
        Reservation(new_id(n), facts(allowance, allowance), allowance, allowance)
        for n in range(2)
    )
    assert isinstance(rig.run(limiter.reserve(first)), Granted)
    rig.move(19_999)

    assert not isinstance(rig.run(limiter.reserve(second)), Granted)
    assert set() == rig.run(limiter.reap([(SHARD, first.exchange_id)]))
    rig.move(1)
    assert isinstance(rig.run(limiter.reserve(second)), Granted)
    assert {SHARD} == rig.run(limiter.reap([(SHARD, first.exchange_id)]))
