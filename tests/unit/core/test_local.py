"""A worker's own limits: together the workers admit what the shared limit would."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import examples
from tollhouse.core.buckets import GRAINS, Bucket
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Debit, Limit, Measure, Scope
from tollhouse.core.local import LocalLimits, Share
from tollhouse.core.reservation import Granted, Refused, Reservation, Typical

NOON_MS = 1_800_014_400_000  # 2027-01-15 12:00 UTC
DAY_MS = 86_400_000
ONE = Share(0, 1)

TRAFFIC = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 100, 1000, 20_000]),
        st.integers(0, 7),
        st.sampled_from([0, 0.001, 0.03, 0.2, 0.7, 1, 1.1]),
        st.integers(1, 20),
    ),
    min_size=1,
    max_size=40,
)
"""What came: ms later, at which worker, asking for which part of what
the limit admits at once, how many times."""


def ask(*limits, units=100, at_ms=NOON_MS, duration_ms=0, **changes):
    facts = examples.facts(
        **{
            "reserved_units": units,
            "input_estimate": units,
            "output_estimate": 0,
            "prices": (3, 0, 0),
        }
        | changes
    )
    id_ = exchange_id(at_ms, bytes(10))
    return Reservation(id_, facts, limits, Typical(duration_ms))


def per_minute(value, measure=Measure.UNITS, scope=Scope.TENANT_MODEL, **more):
    return Limit(scope, measure, value, **more)


def seen(level):
    """The shared limit's answer to somebody who was admitted."""
    return Granted((), (level,), None, None)


class Workers:
    """Some workers of one gateway, alone since time 0."""

    def __init__(self, number):
        self.number = number
        self.each = [LocalLimits() for _ in range(number)]

    def reserve(self, worker, reservation, now_ms=0):
        worker %= self.number
        share = Share(worker, self.number)
        return self.each[worker].reserve(reservation, share, now_ms)

    def remember(self, reservation, verdict):
        for one in self.each:
            one.remember(reservation, verdict, 0)

    def admits(self, worker, reservation, now_ms=0):
        return isinstance(self.reserve(worker, reservation, now_ms), Granted)


@given(
    number=st.integers(1, 8),
    rule=st.builds(
        Limit,
        scope=st.sampled_from([Scope.KEY, Scope.TENANT_MODEL, Scope.GLOBAL]),
        measure=st.sampled_from([Measure.REQUESTS, Measure.UNITS]),
        value=st.integers(1, 1000),
        burst=st.floats(0, 20),
    ),
    used=st.none() | st.floats(0, 1.5),
    traffic=TRAFFIC,
)
def test_workers_admit_no_more_than_the_bucket_would(number, rule, used, traffic):
    """At no moment and to no spread of traffic more than burst + limit x time."""
    bucket, workers = Bucket.of(rule), Workers(number)
    level = 0
    if used is not None:
        level = int(used * bucket.capacity)
        workers.remember(ask(rule), seen(level))
    now_ms = admitted = 0
    for passed_ms, worker, part, times in traffic:
        now_ms += passed_ms
        units = round(part * bucket.capacity / GRAINS)
        for _ in range(times):
            if workers.admits(worker, ask(rule, units=units), now_ms):
                admitted += GRAINS * (units if rule.measure is Measure.UNITS else 1)
        assert admitted <= max(0, bucket.capacity - level + bucket.rate * now_ms)


@pytest.mark.parametrize("number", [1, 3, 16])
@pytest.mark.parametrize(
    "rule",
    [
        per_minute(2, Measure.REQUESTS),
        per_minute(30, Measure.REQUESTS, burst=4),
        per_minute(600, Measure.REQUESTS, Scope.GLOBAL),
        per_minute(6000),
        per_minute(60_000, scope=Scope.KEY, burst=1),
    ],
)
def test_workers_admit_what_the_bucket_would(number, rule):
    """Nothing is closed, however small the part of one: ten minutes of greed."""
    workers, bucket = Workers(number), Bucket.of(rule)
    cost = GRAINS * (1 if rule.measure is Measure.REQUESTS else 100)
    admitted = 0
    for now_ms in range(0, 600_001, 250):
        # Whoever has room gets the request: a client that is refused tries again.
        for worker in range(number):
            while workers.admits(worker, ask(rule), now_ms):
                admitted += cost

    due = bucket.capacity + bucket.rate * 600_000
    assert due - (number + 1) * cost <= admitted <= due


@given(
    number=st.integers(1, 8),
    costs=st.lists(st.integers(1, 2000), min_size=1, max_size=30),
    limit=st.integers(600, 12_000),
)
def test_a_retry_at_the_time_named_succeeds(number, costs, limit):
    """Also of what is larger than a worker's part of the burst; and not before."""
    rule, workers, now_ms = per_minute(limit), Workers(number), 0
    for units in costs:
        mine = ask(rule, units=units)
        verdict = workers.reserve(0, mine, now_ms)
        if isinstance(verdict, Refused):
            never = units * GRAINS > Bucket.of(rule).capacity
            assert never is (verdict.retry_after_seconds is None)
            if verdict.retry_after_seconds is None:
                continue
            wait_ms = round(verdict.retry_after_seconds * 1000)
            assert not workers.admits(0, mine, now_ms + wait_ms - 1)
            now_ms += wait_ms
            assert workers.admits(0, mine, now_ms)


def test_losing_redis_gives_no_fresh_burst():
    """A bucket goes on from where it was, drained by the time since."""
    rule = per_minute(6000, burst=10)
    local = LocalLimits()
    local.remember(ask(rule), seen(Bucket.of(rule).capacity), 0)

    assert isinstance(local.reserve(ask(rule), ONE, 999), Refused)
    assert isinstance(local.reserve(ask(rule), ONE, 1000), Granted)


def test_small_requests_take_nothing_from_what_a_large_one_saved():
    """Beyond what they use: looking at a limit must not throw its savings away."""
    rule, workers = per_minute(6000, burst=10), Workers(4)
    large, small = ask(rule, units=900), ask(rule, units=1)
    refused = workers.reserve(0, large)
    for now_ms in range(0, 26_000, 500):
        assert workers.admits(0, small, now_ms)

    assert isinstance(refused, Refused)
    assert 25.97 == pytest.approx(refused.retry_after_seconds, abs=0.04)
    assert 0 == refused.remaining, "or it would look like room"
    assert not workers.admits(0, large, 28_000)
    assert workers.admits(0, large, 28_100)


def test_an_idle_worker_saves_no_more_than_a_request_needs():
    """Time alone is a share of the burst, as long as nothing larger is asked."""
    rule, workers = per_minute(6000, burst=10), Workers(4)
    workers.admits(0, ask(rule))
    admitted = 0
    while workers.admits(0, ask(rule), 3_600_000):
        admitted += 100

    assert 200 == admitted, "1,000 / 4, in hundreds"


@given(
    number=st.integers(1, 8),
    value=st.integers(0, 5000),
    measure=st.sampled_from([Measure.UNITS_PER_DAY, Measure.MONEY_PER_MONTH]),
    spent=st.none() | st.integers(0, 6000),
    traffic=TRAFFIC,
)
def test_workers_spend_no_more_than_was_left(number, value, measure, spent, traffic):
    """Of a budget never seen, a tenth: even a spent one is exceeded by no more."""
    rule = Limit(Scope.TENANT, measure, value)
    workers, each = Workers(number), 3 if measure.is_money else 1
    if spent is not None:
        workers.remember(ask(rule), seen(spent))
    admitted = 0
    for _, worker, part, times in traffic:
        units = round(part * value)
        for _ in range(times):
            if workers.admits(worker, ask(rule, units=units)):
                admitted += units * each

    left = value // 10 if spent is None else max(0, value - spent)
    assert admitted <= left


def test_a_new_period_starts_with_the_whole_budget():
    """In parts: nobody else can spend of it either while Redis is away."""
    rule = Limit(Scope.KEY, Measure.UNITS_PER_DAY, 1000, zone="Europe/Berlin")
    workers = Workers(4)
    workers.remember(ask(rule), seen(1000))
    assert not workers.admits(0, ask(rule, units=1))
    tomorrow = ask(rule, at_ms=NOON_MS + DAY_MS // 2)
    admitted = 0
    for worker in range(4):
        while workers.admits(worker, tomorrow):
            admitted += 100

    assert 800 == admitted, "250 each, in hundreds"
    assert not workers.admits(0, ask(rule)), "what comes late spends of the new one"


def test_a_budget_used_up_says_so_and_a_part_used_up_does_not():
    """Only what is known to be spent is `insufficient_quota`."""
    rule = Limit(Scope.KEY, Measure.UNITS_PER_MONTH, 1000)
    two, local = Share(0, 2), LocalLimits()
    local.remember(ask(rule), seen(500), 0)
    waits = []
    for units in (600, 300, 200, 200):
        verdict = local.reserve(ask(rule, units=units), two, 0)
        wait = isinstance(verdict, Refused) and verdict.retry_after_seconds
        waits.append(wait)

    # Known: 500. Our part: 250, of which 200 are then taken.
    assert [None, 1.0, False, 1.0] == waits
    alone = LocalLimits()
    alone.remember(ask(rule), seen(500), 0)
    assert isinstance(alone.reserve(ask(rule, units=500), ONE, 0), Granted)
    verdict = alone.reserve(ask(rule, units=1), ONE, 0)
    assert isinstance(verdict, Refused)
    assert None is verdict.retry_after_seconds
    unseen = LocalLimits()
    for units, wait in ((200, 1.0), (1001, None)):
        verdict = unseen.reserve(ask(rule, units=units), ONE, 0)
        assert isinstance(verdict, Refused)
        assert wait == verdict.retry_after_seconds


@pytest.mark.parametrize("number", [1, 2, 5, 16])
@pytest.mark.parametrize("value", [1, 3, 16, 40])
@pytest.mark.parametrize("running", [0, 1, 50])
def test_places_are_divided_and_none_is_lost(number, value, running):
    """Of the key and of the tenant alike: else one worker would have either."""
    rules = [Limit(it, Measure.CONCURRENT, value) for it in (Scope.KEY, Scope.TENANT)]
    workers, mine = Workers(number), ask(*rules)
    workers.remember(mine, Granted((), (running, running), None, None))
    admitted = 0
    for worker in range(number):
        while workers.admits(worker, mine):
            admitted += 1

    assert max(0, value - running) == admitted


def test_places_end_after_the_typical_time():
    """Nobody tells us how exchanges end while the ledger stands still."""
    rule = Limit(Scope.KEY, Measure.CONCURRENT, 3)
    local = LocalLimits(lease_ms=20_000)
    local.remember(ask(rule, duration_ms=4000), seen(1), 0)
    short, unknown = ask(rule, duration_ms=5000), ask(rule)
    assert isinstance(local.reserve(short, ONE, 1000), Granted)
    assert isinstance(local.reserve(unknown, ONE, 1000), Granted)
    refused = local.reserve(short, ONE, 1000)

    assert isinstance(refused, Refused)
    assert (0, 4.0) == (refused.remaining, refused.retry_after_seconds)
    ends = [
        now_ms
        for now_ms in range(1000, 30_000, 500)
        if isinstance(local.reserve(unknown, ONE, now_ms), Granted)
    ]
    assert [5000, 6000, 21_000] == ends[:3]


def test_a_place_of_another_worker_is_waited_for():
    """Somebody has one of the two, and not we: soon, at another, it may fit."""
    rule = Limit(Scope.KEY, Measure.CONCURRENT, 1)
    workers = Workers(2)
    verdicts = [workers.reserve(worker, ask(rule)) for worker in range(2)]

    (refused,) = (it for it in verdicts if isinstance(it, Refused))
    assert 1.0 == refused.retry_after_seconds


def test_a_model_at_capacity_is_let_one_exchange_per_worker():
    """As the shared limit lets the one in that crosses it."""
    rule = Limit(Scope.MODEL, Measure.CAPACITY, 100)
    workers = Workers(4)
    admitted = [0] * 4
    for worker in range(4):
        while workers.admits(worker, ask(rule, units=60, duration_ms=1000)):
            admitted[worker] += 1

    assert [1] * 4 == admitted
    assert workers.admits(0, ask(rule, units=60), 1000)


def test_all_limits_are_charged_or_none():
    wide, narrow = per_minute(6000), Limit(Scope.KEY, Measure.CONCURRENT, 1)
    local = LocalLimits()
    first = local.reserve(ask(wide, narrow), ONE, 0)
    refused = local.reserve(ask(wide, narrow), ONE, 0)

    assert isinstance(first, Granted)
    assert isinstance(refused, Refused)
    assert first.levels == refused.levels == (100 * GRAINS, 1)
    assert narrow is refused.limit


def test_what_is_granted_names_its_debits_and_quotas():
    """So that the settlement charges the shared limits of what we admitted."""
    limits = (
        Limit(Scope.GLOBAL, Measure.UNITS, 100_000),
        Limit(Scope.MODEL, Measure.CAPACITY, 5000, weight=3),
        Limit(Scope.KEY, Measure.REQUESTS, 60),
        Limit(Scope.TENANT, Measure.MONEY_PER_MONTH, 10_000, zone="Asia/Tokyo"),
        Limit(Scope.TENANT_MODEL, Measure.UNITS, 6000),
        Limit(Scope.TENANT_MODEL, Measure.CONCURRENT, 0, shadow=True),
    )
    granted = LocalLimits().reserve(ask(*limits), Share(0, 2), 0)

    assert isinstance(granted, Granted)
    assert (
        Debit(Scope.GLOBAL, Measure.UNITS, 100_000),
        Debit(Scope.MODEL, Measure.CAPACITY, 3),
        Debit(Scope.KEY, Measure.REQUESTS, 60),
        Debit(Scope.TENANT, Measure.MONEY_PER_MONTH, 202701),
        Debit(Scope.TENANT_MODEL, Measure.UNITS, 6000),
    ) == granted.debits
    assert limits[-1:] == granted.shadowed
    assert granted.requests is not None
    assert granted.units is not None
    # What the other worker is taken to have admitted counts as well.
    assert (60, 8) == (granted.requests.limit, granted.requests.remaining)
    assert (6000, 800) == (granted.units.limit, granted.units.remaining)


def test_the_shared_limit_replaces_what_we_counted():
    rule = per_minute(6000)
    local = LocalLimits()
    for _ in range(10):
        local.reserve(ask(rule), ONE, 0)
    assert isinstance(local.reserve(ask(rule), ONE, 0), Refused)
    local.remember(ask(rule), seen(900 * GRAINS), 0)

    assert isinstance(local.reserve(ask(rule), ONE, 0), Granted)
    assert isinstance(local.reserve(ask(rule), ONE, 0), Refused)


@pytest.mark.parametrize("scope", [Scope.GLOBAL, Scope.KEY])
def test_of_a_refusal_only_the_side_that_refused_is_believed(scope):
    """The other was not looked at, or is given back: its level says nothing."""
    fleet, mine = (
        per_minute(6000, scope=Scope.GLOBAL),
        per_minute(60_000, scope=Scope.KEY),
    )
    local = LocalLimits()
    asked = ask(fleet, mine)
    full = (600 * GRAINS, 6000 * GRAINS)
    local.remember(asked, Granted((), full, None, None), 0)
    binding = fleet if scope is Scope.GLOBAL else mine
    local.remember(asked, Refused(binding, 1.0, 0, (0, 0), None, None), 0)

    granted = local.reserve(ask(fleet, mine, units=0), ONE, 0)
    expected = (0, full[1]) if binding is fleet else (full[0], 0)
    assert expected == granted.levels


def test_the_longest_unused_limits_are_forgotten():
    """Memory is bounded; who comes back then starts as if never seen."""
    rule = per_minute(6000, scope=Scope.KEY)
    local = LocalLimits(most_remembered=10)
    full = seen(1000 * GRAINS)
    for number in range(10):
        local.remember(ask(rule, key_id=f"k{number}"), full, 0)
    assert isinstance(local.reserve(ask(rule, key_id="k0"), ONE, 0), Refused)
    local.remember(ask(rule, key_id="k10"), full, 0)

    assert isinstance(local.reserve(ask(rule, key_id="k0"), ONE, 0), Refused)
    assert isinstance(local.reserve(ask(rule, key_id="k1"), ONE, 0), Granted)
    assert 10 == len(local._known)


def test_owners_have_limits_of_their_own():
    """Of the same measure, by what the scope names."""
    expected = {
        Scope.KEY: "k1",
        Scope.TENANT: "acme",
        Scope.TENANT_MODEL: "acme m1",
        Scope.MODEL: "m1",
        Scope.GLOBAL: "",
    }
    for scope, names in expected.items():
        local, rule = LocalLimits(), per_minute(60, scope=scope, burst=100)
        local.reserve(ask(rule), ONE, 0)
        for field, value in (
            ("key_id", "k1"),
            ("tenant", "acme"),
            ("served_model", "m1"),
        ):
            verdict = local.reserve(ask(rule, **{field: "other"}), ONE, 0)
            assert (value in names) is isinstance(verdict, Granted), (scope, field)


def test_money_is_reserved_with_the_margin():
    """As in Redis: half of all texts are billed more than the estimate."""
    budget = Limit(Scope.TENANT, Measure.MONEY_PER_DAY, 1000)
    workers, asked = Workers(1), replace(ask(budget, units=100), margin=10)
    workers.remember(asked, seen(0))

    assert ((100 + 10) * 3,) == workers.reserve(0, asked).levels
