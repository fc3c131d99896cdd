"""Stop strings: the same cut for every split of the text."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tollhouse.frontend.stop import StopTrim

TEXT = st.text("abc", max_size=14)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """Feed the pieces as a stream does."""
    trim = StopTrim(stops)
    out = ""
    for piece in pieces:
        out += trim.feed(piece)
        if trim.hit:
            return out, True
    return out + trim.flush(), False


def complete_first(stops: list[str], text: str) -> tuple[str, bool]:
    """The rule: the shortest prefix that ends with a stop string, without it."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(text=TEXT, stops=STOPS, cuts=st.lists(st.integers(0, 14), max_size=6))
def test_any_split_gives_the_same_cut(text: str, stops: list[str], cuts: list[int]):
    """What is sent does not depend on how tokens happen to fall."""
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]

    assert run(stops, pieces) == complete_first(stops, text)


def test_the_string_complete_first_wins():
    """Of two, not the one that starts first but the one that is complete first."""
    for pieces in (["one two three"], list("one two three")):
        assert run(["e two three", "two"], pieces) == ("one ", True)
    trim = StopTrim(["e two three", "two"])
    trim.feed("one two three")

    assert trim.matched == "two"


def test_text_that_can_be_no_stop_string_goes_out_at_once():
    """Only what may become a stop string is held back."""
    trim = StopTrim(["###"])

    assert trim.feed("abc#") == "abc"
    assert trim.feed("d##") == "#d"
    assert trim.flush() == "##"
    assert not trim.hit


def test_after_the_hit_nothing_comes():
    """Text behind the stop string is never sent."""
    trim = StopTrim(["x"])

    assert trim.feed("axb") == "a"
    assert trim.feed("c") == ""
    assert trim.flush() == ""
