"""Who creates tenants does not decide how many series there are."""

from tollhouse.adapters.capped_names import OTHER, CappedNames


def test_the_first_names_stay_and_the_rest_is_one():
    """A name keeps what it is counted under, whoever comes after it."""
    capped = CappedNames(most=3)

    first = [capped(name) for name in "abcde"]
    again = [capped(name) for name in "edcba"]

    assert ["a", "b", "c", OTHER, OTHER] == first
    assert first[::-1] == again
