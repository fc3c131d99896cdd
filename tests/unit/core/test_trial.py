"""The figures of a trial, by hand and against the plain definition."""

from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.buckets import GRAINS, Bucket
from tollhouse.core.trial import WINDOW_MS, Figures, Trial, sum_up, windows, worst

# 600 units per minute, 100 at once: 10 units a second.
BUCKET = Bucket(600, 100 * GRAINS)


def test_utilisation_is_what_was_used_of_what_was_given():
    """Real units of what was admitted, not what was reserved for it."""
    trial = Trial(BUCKET)
    trial.admit(0, 80)
    trial.charge(0, 200)
    trial.charge(500, -120)
    trial.admit(30_000, 40)

    assert Figures(2, 2, 0.4, 0.0, 0.0) == sum_up([trial], 30_000)


def test_a_refusal_is_false_if_the_real_units_had_fitted():
    """Judged by a bucket that knew what each request would use."""
    trial = Trial(BUCKET)
    trial.admit(0, 80)
    trial.refuse(0, 20)  # fits: false
    trial.refuse(0, 21)  # does not
    trial.refuse(1000, 30)  # fits again: 10 have drained
    trial.refuse(1000, 31)

    assert (1, 4, 2) == (trial.admitted, trial.refused, trial.falsely_refused)
    assert 2 / 5 == sum_up([trial], 1000).false_refusals


def test_what_was_admitted_beyond_the_limit_drains_first():
    """A policy that overshoots makes its later refusals true ones."""
    trial = Trial(BUCKET)
    trial.admit(0, 300)
    trial.refuse(19_000, 1)
    trial.refuse(20_000, 1)
    trial.refuse(20_100, 1)

    assert 1 == trial.falsely_refused


def test_overshoot_is_what_exceeds_burst_and_limit_in_a_minute():
    """760 of 700 that a minute may have, of a limit of 600; after it is another."""
    trial = Trial(BUCKET)
    trial.charge(0, 5000)
    trial.charge(59_999, -4900)
    trial.charge(100_000, 400)
    trial.charge(159_999, 360)
    trial.charge(160_000, 500)
    trial.charge(160_000, -500)
    trial.charge(400_000, 0)

    assert 5000 == worst(trial.charges)
    assert (5000 - 700) / 600 == trial.overshoot
    assert 760 == worst(trial.charges[2:4])
    assert 0 == worst([])
    assert 0 == worst([(0, -5)])


def test_limits_are_summed_up():
    """Use and refusals together; the overshoot is the worst one's."""
    one, other = Trial(BUCKET), Trial(BUCKET)
    one.admit(0, 100)
    one.charge(0, 760)
    other.admit(0, 50)
    other.refuse(0, 1)
    other.charge(0, 730)

    assert Figures(3, 2, 150 / 1200, 0.1, 1 / 3) == sum_up([one, other], 60_000)


@given(
    st.lists(st.tuples(st.integers(0, 300_000), st.integers(-50, 50)), max_size=40).map(
        sorted
    )
)
def test_the_worst_minute_is_the_worst_of_all(charges):
    """Wherever a minute begins, it holds no more than what was found."""
    starts = range(-WINDOW_MS, 300_001, 997)
    plain = [
        sum(units for at, units in charges if start < at <= start + WINDOW_MS)
        for start in starts
    ]

    assert plain == windows(charges, starts)
    assert max(plain) <= worst(charges)
    assert 0 <= worst(charges) <= sum(units for _, units in charges if units > 0)
