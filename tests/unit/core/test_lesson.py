"""What an ended exchange teaches, and what it must not."""

from dataclasses import replace

import pytest
from msgspec.structs import replace as with_facts

from tests import examples
from tollhouse.core.experience import Ratio
from tollhouse.core.lesson import OLDEST_MS, lesson
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

NOW_MS = 1_800_000_000_000
FACTS = examples.facts(
    reserved_units=500,
    input_estimate=20,
    output_estimate=96,
    text_bytes=40,
    framing=4,
)
SETTLED = examples.settlement(
    NOW_MS - 3000,
    facts=FACTS,
    usage=TokenUsage(14, 60),
    first_ms=NOW_MS - 2000,
    ended_ms=NOW_MS - 500,
)


def taught(settlement=SETTLED, **facts):
    return lesson(
        replace(settlement, facts=with_facts(settlement.facts, **facts)), NOW_MS
    )


def test_a_served_exchange_teaches_everything():
    learned = taught()

    assert ("acme", "m", 60, False, 2500) == (
        learned.tenant,
        learned.model,
        learned.output,
        learned.is_cut,
        learned.duration_ms,
    )
    assert Ratio(1, 10, 40) == learned.text
    assert Ratio(1, 500 - 14 - 300, 500) == learned.refund


def test_output_is_of_one_choice():
    """Rounded up, so that four answers one token short of the cap still were cut."""
    learned = taught(replace(SETTLED, usage=TokenUsage(14, 61)), choices=4)

    assert 16 == learned.output


def test_reasoning_is_output():
    """Hidden, but produced and charged; it is a part of the count, not beside it."""
    usage = TokenUsage(14, 60, reasoning_tokens=50)

    assert taught() == taught(replace(SETTLED, usage=usage))


class TestCut:
    @pytest.mark.parametrize(
        ("output", "cap", "expected"),
        [(59, 60, False), (60, 60, True), (61, 60, True), (96, 96, True)],
    )
    def test_an_answer_that_reached_its_cap_was(self, output, cap, expected):
        settled = replace(SETTLED, usage=TokenUsage(14, output))

        assert expected is taught(settled, output_cap=cap).is_cut

    def test_an_answer_whose_client_left_was(self):
        assert taught(replace(SETTLED, kind=UsageKind.PARTIAL)).is_cut

    def test_an_answer_that_nobody_saw_the_end_of_teaches_no_length(self):
        """Its client left, and was billed the cap: what it became is not known."""
        left = replace(SETTLED, kind=UsageKind.PARTIAL, usage=TokenUsage(14, 200))

        assert 0 == taught(left, output_cap=200, runs_on=True).output
        assert 60 == taught(output_cap=200, runs_on=True).output

    @pytest.mark.parametrize("cut", [{"kind": UsageKind.PARTIAL}, {}])
    def test_one_longer_than_expected_teaches_all_the_same(self, cut):
        """Else who always asks for as much as it can get never teaches anything."""
        settled = replace(SETTLED, usage=TokenUsage(14, 97), **cut)

        assert not taught(settled, output_cap=97).is_cut

    def test_tiny_caps_teach_nothing_on_their_own(self):
        """What was expected of them is the cap itself."""
        settled = replace(SETTLED, usage=TokenUsage(14, 5))

        assert taught(settled, output_cap=5, output_estimate=5).is_cut

    def test_choices_are_cut_by_their_own_cap(self):
        settled = replace(SETTLED, usage=TokenUsage(14, 20))

        assert taught(settled, choices=4, output_cap=5).is_cut
        assert not taught(settled, choices=4, output_cap=6).is_cut


@pytest.mark.parametrize("kind", [UsageKind.FINAL, UsageKind.PARTIAL])
def test_what_failed_teaches_nothing(kind):
    """Errors and unreached hosts are settled with zero."""
    assert taught(replace(SETTLED, kind=kind, usage=TokenUsage())) is None


def test_a_replayed_ledger_teaches_nothing():
    assert taught(replace(SETTLED, ended_ms=NOW_MS - OLDEST_MS)) is not None
    assert taught(replace(SETTLED, ended_ms=NOW_MS - OLDEST_MS - 1)) is None


@pytest.mark.parametrize("source", [CountSource.ESTIMATE, CountSource.METER])
def test_only_a_backend_knows_the_tokens_of_a_text(source):
    learned = taught(replace(SETTLED, input_source=source))

    assert learned.text is None
    assert 60 == learned.output


@pytest.mark.parametrize(
    ("input_tokens", "size", "expected"),
    [
        (14, 40, Ratio(1, 10, 40)),
        (44, 40, Ratio(1, 40, 40)),
        (1044, 40, Ratio(1, 40, 40)),
        (4, 40, None),
        (3, 40, None),
        (14, 0, None),
    ],
)
def test_text_is_what_is_left_without_the_framing(input_tokens, size, expected):
    """A token has a byte at least: more of them were not of the text."""
    settled = replace(SETTLED, usage=TokenUsage(input_tokens, 60))

    assert expected == taught(settled, text_bytes=size).text


def test_an_overrun_is_no_refund():
    assert Ratio(1, 0, 100) == taught(reserved_units=100).refund
    assert taught(reserved_units=0).refund is None


def test_clocks_that_disagree_make_no_negative_duration():
    assert 0 == taught(replace(SETTLED, ended_ms=NOW_MS - 4000)).duration_ms
