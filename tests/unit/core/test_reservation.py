"""Further requests of one exchange."""

import pytest
from msgspec.structs import replace

from tests.unit.core.test_usage import FACTS
from tollhouse.core.limits import Debit, Limit, Measure, Scope
from tollhouse.core.reservation import Reservation, further_limits, joined

FIRST = replace(
    FACTS,
    debits=(
        Debit(Scope.KEY, Measure.REQUESTS, 60),
        Debit(Scope.KEY, Measure.CONCURRENT),
        Debit(Scope.TENANT, Measure.UNITS_PER_DAY, 20_000),
    ),
    text_bytes=40,
    framing=4,
    output_cap=16,
)
SECOND = replace(
    FACTS,
    requested_model="other-name",
    reserved_units=7,
    input_estimate=3,
    output_estimate=2,
    text_bytes=5,
    framing=1,
    choices=3,
    output_cap=9,
)


def test_facts_of_a_stream_are_sums():
    """Its names, weights, prices and limits are those of the first."""
    both = joined(FIRST, SECOND)

    assert (
        replace(
            FIRST,
            reserved_units=FACTS.reserved_units + 7,
            input_estimate=FACTS.input_estimate + 3,
            output_estimate=FACTS.output_estimate + 2,
            text_bytes=45,
            framing=5,
            choices=FACTS.choices + 3,
        )
        == both
    )


@pytest.mark.parametrize(
    ("caps", "expected"), [((16, 90), 90), ((16, None), None), ((None, 9), None)]
)
def test_a_stream_is_capped_where_all_its_answers_are(caps, expected):
    first, second = (replace(FACTS, output_cap=cap) for cap in caps)

    assert expected == joined(first, second).output_cap


def test_a_further_request_is_judged_by_what_the_stream_is_charged_to():
    """Not by a limit that is new, or was in shadow; it has its place already."""
    requests = Limit(Scope.KEY, Measure.REQUESTS, 60)
    budget = Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 1000)
    limits = (
        requests,
        Limit(Scope.KEY, Measure.CONCURRENT, 4),
        Limit(Scope.TENANT, Measure.REQUESTS, 600),
        budget,
    )

    assert (requests, budget) == further_limits(limits, FIRST)


def test_the_whole_of_one_request_is_itself():
    assert FIRST == Reservation("id", FIRST, ()).whole
    further = Reservation("id", SECOND, (), ordinal=2, so_far=FIRST)
    assert joined(FIRST, SECOND) == further.whole
