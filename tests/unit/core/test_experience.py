"""Which cohort answers, and what is remembered of whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.experience import (
    ENOUGH_SAMPLES,
    FEW_SAMPLES,
    Cohort,
    Experience,
    Learned,
    Ratio,
)
from tollhouse.core.histogram import MOST_SAMPLES, Quantiles

OWN, TENANT, MODEL = Cohort("acme", "m"), Cohort("acme", ""), Cohort("", "m")


def output(high, samples=ENOUGH_SAMPLES):
    return Learned(output=Quantiles(samples, 1, high))


def knowing(**cohorts):
    experience = Experience()
    names = {"own": OWN, "tenant": TENANT, "model": MODEL}
    experience.learn({names[name]: learned for name, learned in cohorts.items()})
    return experience


@pytest.mark.parametrize(
    ("cohorts", "expected"),
    [
        ({}, None),
        ({"own": output(10), "tenant": output(20), "model": output(30)}, 10),
        ({"own": output(10, 49), "tenant": output(20), "model": output(30)}, 20),
        ({"own": output(10, 49), "tenant": output(20, 49), "model": output(30)}, 30),
        ({"own": output(10, 49), "model": output(30, 49)}, None),
    ],
)
def test_the_first_cohort_that_has_learned_enough_answers(cohorts, expected):
    """Tenant × model, then the tenant, then the model."""
    assert expected == knowing(**cohorts).output("acme", "m")


def test_what_others_taught_counts_up_to_a_bound():
    """One of them may send most of the requests."""
    new, old = knowing(model=output(30)), knowing(own=output(10), model=output(30))

    assert 20 == new.output("acme", "m", most_of_others=20)
    assert 30 == new.output("acme", "m", most_of_others=40)
    assert 10 == old.output("acme", "m", most_of_others=5)


def test_bytes_per_token_are_of_the_tenants_own_texts_or_of_all():
    own = Learned(text=Ratio(ENOUGH_SAMPLES, 100, 450))
    model = Learned(text=Ratio(ENOUGH_SAMPLES, 100, 200))

    assert 4.5 == knowing(own=own, model=model).bytes_per_token("acme", "m")
    assert 2.0 == knowing(model=model).bytes_per_token("acme", "m")
    assert knowing(tenant=own).bytes_per_token("acme", "m") is None


@pytest.mark.parametrize("text", [Ratio(49, 100, 400), Ratio(50, 0, 0)])
def test_few_texts_say_nothing(text):
    assert knowing(model=Learned(text=text)).bytes_per_token("", "m") is None


def test_duration_and_refund_leave_a_cohort_that_has_not_learned():
    own = Learned(
        duration=Quantiles(50, 700, 900), refund=Ratio(ENOUGH_SAMPLES, 30, 100)
    )
    model = Learned(duration=Quantiles(50, 800, 900), refund=Ratio(50, 50, 100))

    both, one, none = knowing(own=own, model=model), knowing(model=model), knowing()

    assert [700, 800, 0] == [it.duration_ms("acme", "m") for it in (both, one, none)]
    assert [0.3, 0.5, 0] == [it.refund_part("acme", "m") for it in (both, one, none)]


@pytest.mark.parametrize(
    ("samples", "told"), [(FEW_SAMPLES - 1, 800), (FEW_SAMPLES, 700)]
)
def test_a_median_needs_few_samples(samples, told):
    """A rough one holds places better than a whole lease does."""
    own = Learned(duration=Quantiles(samples, 700, 900))
    model = Learned(duration=Quantiles(50, 800, 900))

    assert told == knowing(own=own, model=model).duration_ms("acme", "m")


def test_asking_for_something_unknown_is_a_wish_until_it_is_learned():
    """Also when it turns out that there is nothing to know."""
    experience = Experience()
    experience.output("acme", "m")

    assert [OWN, TENANT, MODEL] == experience.wishes
    experience.learn(dict.fromkeys(experience.wishes, Learned()))
    experience.output("acme", "m")
    assert [] == experience.wishes


def test_only_what_was_asked_for_is_read_again():
    experience = knowing(own=output(1), model=output(2))
    assert [] == experience.asked

    experience.output("acme", "m")

    assert [OWN] == experience.asked
    experience.learn({OWN: output(3)})
    assert [] == experience.asked


def test_cohorts_nobody_asks_for_make_room():
    experience = Experience(most=2)
    for name in "abc":
        experience.learn({Cohort("", name): output(1)})

    assert [None, 1, 1] == [experience.output("", name) for name in "abc"]


def test_wishes_have_a_bound():
    """Whatever is asked while Redis is away."""
    experience = Experience(most=10)
    for number in range(100):
        experience.bytes_per_token("acme", str(number))

    assert 10 == len(experience.wishes) == len(experience.asked)


ratios = st.builds(
    Ratio, st.integers(0, 10_000), st.integers(0, 10**9), st.integers(0, 10**9)
)


@given(ratios, ratios)
def test_a_ratio_forgets_and_stays_what_it_is(one, other):
    """Halved together, so that the ratio of the sums hardly moves."""
    both = one.add(other)

    assert both.samples <= MOST_SAMPLES
    halvings = 0
    while (one.samples + other.samples) >> halvings > MOST_SAMPLES:
        halvings += 1
    assert (one.part + other.part) >> halvings == both.part
    assert (one.whole + other.whole) >> halvings == both.whole
