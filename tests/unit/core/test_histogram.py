"""Log histograms: quantiles never too low, at most a bin too high, and they forget."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.histogram import (
    EDGES,
    HIGH,
    MEDIAN,
    MOST_SAMPLES,
    WEIGHT,
    Histogram,
    Quantiles,
    upper_edge,
)

values = st.integers(0, EDGES[-1])


def taught(*samples, cut=()):
    histogram = Histogram()
    histogram.add(Counter(map(upper_edge, samples)), Counter(map(upper_edge, cut)))
    return histogram


@given(values)
def test_a_bin_is_at_most_15_percent_above_its_value(value):
    assert value <= upper_edge(value) <= max(value, value * 1.15)


@given(values)
def test_an_edge_is_its_own_bin(value):
    edge = upper_edge(value)

    assert edge == upper_edge(edge)


def test_what_is_beyond_the_last_edge_counts_there():
    assert EDGES[-1] == upper_edge(EDGES[-1] + 1)


@given(st.lists(values, min_size=1, max_size=200), st.sampled_from([MEDIAN, HIGH]))
def test_a_quantile_is_the_bin_of_the_exact_one(samples, percent):
    """The nearest-rank quantile, never below it."""
    exact = sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]

    assert upper_edge(exact) == taught(*samples).quantile(percent)


def test_nothing_has_no_quantiles():
    assert Quantiles() == Histogram().quantiles()
    assert Histogram().quantile(HIGH) is None


def test_sums_up():
    assert Quantiles(10, 5, 9) == taught(*range(1, 11)).quantiles()


class TestCut:
    def test_is_left_out_where_nothing_is_known(self):
        """It is at least 5 long: that says nothing."""
        assert {} == taught(cut=[5] * 100).bins

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
        histogram.add({upper_edge(1000): MOST_SAMPLES}, {})

        assert upper_edge(1000) == histogram.quantiles().high

    def test_a_single_sample_fades_away(self):
        histogram = taught(9999)
        edge = upper_edge(9999)
        weights = []
        while edge in histogram.bins:
            weights.append(histogram.bins[edge])
            histogram.add({10: MOST_SAMPLES}, {})

        assert [16, 8, 4, 2, 1] == weights
        assert WEIGHT == weights[0]
