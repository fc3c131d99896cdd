"""The circuit breaker: when it opens, who may probe, what closes it."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.breaker import Breaker


def call(breaker, now):
    """Leave to call, which must be given."""
    permit = breaker.ask(now)
    assert permit is not None
    return permit


def opened(breaker=None, at=0.0):
    """A breaker that has just opened."""
    breaker = breaker or Breaker()
    for _ in range(10):
        breaker.failed(call(breaker, at), at)
    assert breaker.is_open
    return breaker


def test_closed_lets_everybody_call():
    breaker = Breaker()

    assert None not in [breaker.ask(0.0) for _ in range(100)]


def test_nine_failures_or_ten_slow_ones_open_nothing():
    breaker = Breaker()
    for number in range(30):
        breaker.failed(call(breaker, number * 0.2), number * 0.2)

    assert not breaker.is_open


def test_ten_failures_within_a_second_open():
    """Also when others succeed in between: half of the calls is too much."""
    breaker = Breaker()
    for number in range(10):
        assert not breaker.is_open
        breaker.succeeded(call(breaker, number * 0.1), number * 0.1)
        breaker.failed(call(breaker, number * 0.1), number * 0.1)

    assert breaker.is_open
    assert None is breaker.ask(1.0)


def test_one_probe_per_pause():
    breaker = opened()

    assert None is breaker.ask(0.49)
    assert None is not breaker.ask(0.5)
    assert [None] * 5 == [breaker.ask(0.5) for _ in range(5)]


def test_a_probe_that_succeeds_closes():
    """And what failed before counts no more."""
    breaker = opened()
    breaker.succeeded(call(breaker, 0.5), 0.5)

    assert not breaker.is_open
    for _ in range(9):
        breaker.failed(call(breaker, 0.6), 0.6)
    assert not breaker.is_open


def test_the_pause_grows_to_its_longest_and_starts_short_again():
    breaker = opened()
    now, pauses = 0.5, []
    for _ in range(4):
        breaker.failed(call(breaker, now), now)
        before = now
        while breaker.ask(now) is None:
            now += 0.01
        pauses.append(round(now - before, 1))
        now += 2.0  # that one is never reported
    breaker.succeeded(call(breaker, now), now)
    later = now + 2.1
    opened(breaker, later)

    assert [1.0, 2.0, 2.0, 2.0] == pauses
    assert None is breaker.ask(later + 0.49)
    assert None is not breaker.ask(later + 0.5)


def test_who_fails_again_at_once_waits_longer():
    """A Redis that is only slow must not change the rung twice a second."""
    breaker = opened()
    breaker.succeeded(call(breaker, 0.5), 0.5)
    opened(breaker, 0.6)

    assert None is breaker.ask(1.5)
    assert None is not breaker.ask(1.6)


def test_calls_from_before_it_opened_change_nothing():
    """They say how Redis was; a late one must not close it, nor prolong the pause."""
    breaker = Breaker()
    late = [call(breaker, 0.0) for _ in range(20)]
    opened(breaker)
    for permit in late[:10]:
        breaker.succeeded(permit, 0.4)
    for permit in late[10:]:
        breaker.failed(permit, 0.4)

    assert breaker.is_open
    assert None is not breaker.ask(0.5)


def test_a_probe_whose_caller_left_is_replaced():
    """And its outcome, should it come, is not the new one's."""
    breaker = opened()
    gone = call(breaker, 0.5)
    assert None is not breaker.ask(1.0)
    breaker.succeeded(gone, 1.1)

    assert breaker.is_open


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 0.7), st.booleans(), st.integers(1, 12)), max_size=60
    )
)
def test_a_dead_redis_costs_one_call_a_pause(steps):
    """Whatever the traffic: once open, at most one call per first pause."""
    breaker = Breaker()
    now, probed_at = 0.0, []
    for passed, reports, asking in steps:
        now += passed
        for _ in range(asking):
            was_open = breaker.is_open
            permit = breaker.ask(now)
            if permit is not None and was_open:
                probed_at.append(now)
            if permit is not None and (reports or not was_open):
                breaker.failed(permit, now)

    assert all(b - a >= 0.5 - 1e-9 for a, b in itertools.pairwise(probed_at))
