"""Log histograms: quantiles never too low, at most a bin too high, and they forget."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.histogram import (
    EDGES,
    MOST_SAMPLES,
    Histogram,
    Quantiles,
    bin_of,
)

values = st.integers(0, EDGES[-1])


def taught(*samples, cut=()):
    histogram = Histogram()
    histogram.add(Counter(map(bin_of, samples)), Counter(map(bin_of, cut)))
    return histogram


def upper_edge(value):
    return EDGES[bin_of(value)]


@given(values)
def test_a_bin_is_at_most_15_percent_above_its_value(value):
    assert value <= upper_edge(value) <= max(value, value * 1.15)


def test_an_edge_is_in_its_own_bin():
    assert list(range(len(EDGES))) == [bin_of(edge) for edge in EDGES]


def test_what_is_beyond_the_last_edge_counts_there():
    assert len(EDGES) - 1 == bin_of(EDGES[-1] + 1)


@given(st.lists(values, min_size=1, max_size=200))
def test_a_quantile_is_the_bin_of_the_exact_one(samples):
    """The nearest-rank quantile, never below it."""
    median, high = (
        sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]
        for percent in (50, 90)
    )

    expected = Quantiles(len(samples), upper_edge(median), upper_edge(high))
    assert expected == taught(*samples).quantiles()


def test_nothing_has_no_quantiles():
    assert Quantiles() == Histogram().quantiles()


class TestCut:
    def test_is_left_out_where_nothing_is_known(self):
        """It is at least 5 long: that says nothing."""
        assert Quantiles() == taught(cut=[5] * 100).quantiles()

    def test_is_left_out_below_what_is_known(self):
        histogram = taught(*range(1, 11), cut=[8] * 100)

        assert Quantiles(10, 5, 9) == histogram.quantiles()

    def test_counts_from_what_is_known_on(self):
        histogram = taught(*range(1, 11), cut=[9, 14])

        assert Quantiles(12, 6, 10) == histogram.quantiles()


class TestDecay:
    def test_there_are_never_more_samples_than_that(self):
        histogram = Histogram()
        for _ in range(10):
            histogram.add({10: MOST_SAMPLES // 4}, {})

        assert MOST_SAMPLES >= histogram.quantiles().samples > MOST_SAMPLES // 2

    def test_what_is_new_outweighs_what_is_old(self):
        histogram = taught(*[100] * MOST_SAMPLES)
        histogram.add({bin_of(1000): MOST_SAMPLES}, {})

        assert upper_edge(1000) == histogram.quantiles().high

    def test_a_single_sample_fades_away(self):
        histogram = taught(9999)
        weights = []
        while weight := histogram.weights[bin_of(9999)]:
            weights.append(weight)
            histogram.add({10: MOST_SAMPLES}, {})

        assert [16, 8, 4, 2, 1] == weights
