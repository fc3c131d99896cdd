"""The life of an exchange, event by event."""

from dataclasses import replace

import msgspec
import pytest

from tests.unit.core.test_usage import FACTS
from tollhouse.core.exchange import (
    NOTHING,
    RESTORE_MS,
    Abandoned,
    Beat,
    Reap,
    Release,
    Released,
    Reserve,
    Reserved,
    Settled,
    Settlement,
    Stored,
    Transition,
    advance,
)
from tollhouse.core.ids import exchange_id
from tollhouse.core.room import Costs
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

BORN = 1_800_000_000_000
NOW = BORN + 60_000
ID = exchange_id(BORN, bytes(10))
BACKEND, METER, ESTIMATE = CountSource.BACKEND, CountSource.METER, CountSource.ESTIMATE
RESERVED = Costs(110, 170)
OPEN = Reserved(FACTS, RESERVED)

RESERVE = Reserve(ID, FACTS, RESERVED)
RELEASE = Release(ID, "acme")
REAP = Reap(ID)
BEAT = Beat(
    exchange_id=ID,
    facts=FACTS,
    usage=TokenUsage(9, 4),
    input_source=BACKEND,
    output_source=METER,
    started_ms=BORN - 5,
    first_ms=BORN + 300,
    at_ms=BORN + 5000,
)
SETTLEMENT = Settlement(
    exchange_id=ID,
    facts=FACTS,
    kind=UsageKind.FINAL,
    usage=TokenUsage(12, 8, 2, 1),
    input_source=BACKEND,
    output_source=BACKEND,
    started_ms=BORN - 5,
    first_ms=BORN + 300,
    ended_ms=BORN + 9000,
    flags="",
)
USED = Costs(50, 10 * 3 + 2 * 1 + 8 * 7)
REAPED = advance(OPEN, REAP, NOW).stored
EVERY_EVENT = (RESERVE, RELEASE, BEAT, SETTLEMENT, REAP)


def test_reserving_charges_the_estimate_and_a_request():
    assert Transition(OPEN, costs=RESERVED, requests=1) == advance(None, RESERVE, NOW)


@pytest.mark.parametrize("stored", [OPEN, REAPED, Settled(), Released()])
def test_reserving_twice_or_late_changes_nothing(stored):
    assert Transition(stored) == advance(stored, RESERVE, NOW)


WHOLE = msgspec.structs.replace(FACTS, input_estimate=13)
FURTHER = Reserve(ID, WHOLE, Costs(8, 9), 2)
TWICE = Reserved(WHOLE, RESERVED + Costs(8, 9), requests=2)


def test_a_further_request_is_charged_on_top():
    """Its facts are those of both: a record says what the whole stream was."""
    assert Transition(TWICE, costs=Costs(8, 9), requests=1) == advance(
        OPEN, FURTHER, NOW
    )


def test_a_further_request_keeps_what_ran_before():
    """What exceeded the first estimate stays charged; counts are not forgotten."""
    beaten = advance(OPEN, replace(BEAT, usage=TokenUsage(0, 30)), NOW).stored
    outcome = advance(beaten, FURTHER, NOW)

    assert isinstance(beaten, Reserved)
    assert isinstance(outcome.stored, Reserved)
    assert beaten.charged + Costs(8, 9) == outcome.stored.charged
    assert beaten.last_beat == outcome.stored.last_beat


@pytest.mark.parametrize("ordinal", [1, 2])
def test_a_further_request_counts_once(ordinal):
    """A repeat, or one of before that comes late."""
    again = replace(FURTHER, ordinal=ordinal)

    assert Transition(TWICE) == advance(TWICE, again, NOW)


def test_a_further_request_opens_what_redis_never_knew():
    """The first was admitted while Redis was away."""
    opened = Reserved(WHOLE, Costs(8, 9), requests=2)

    assert Transition(opened, costs=Costs(8, 9), requests=1) == advance(
        None, FURTHER, NOW
    )


@pytest.mark.parametrize("stored", [REAPED, Settled(), Released()])
def test_a_further_request_of_what_is_over_changes_nothing(stored):
    assert Transition(stored) == advance(stored, FURTHER, NOW)


def test_a_beat_leaves_the_number_of_requests():
    stored = advance(TWICE, BEAT, NOW).stored

    assert isinstance(stored, Reserved)
    assert (2, WHOLE) == (stored.requests, stored.facts)


def test_releasing_gives_all_requests_back():
    """The admission of the first was lost on its way, and with it the stream."""
    assert Transition(
        Released(), costs=NOTHING - TWICE.charged, requests=-2
    ) == advance(TWICE, RELEASE, NOW)


def test_releasing_gives_everything_back():
    """Its request, too; and leaves what refuses a late RESERVE."""
    beaten = advance(OPEN, replace(BEAT, usage=TokenUsage(0, 30)), NOW).stored

    assert Transition(Released(), costs=Costs(-150, -210), requests=-1) == advance(
        beaten, RELEASE, NOW
    )
    assert Transition(Released()) == advance(None, RELEASE, NOW)
    assert Transition(Released()) == advance(Released(), RELEASE, NOW)
    assert Transition(Settled()) == advance(Settled(), RELEASE, NOW)


def test_settling_replaces_the_estimate_by_what_was_used():
    """(12 - 2) x 1 + 2 x 0 + 8 x 5 = 50 units of 110 reserved; 88 of money of 170."""
    outcome = advance(OPEN, SETTLEMENT, NOW)

    assert (Settled(), USED - RESERVED, 0) == (
        outcome.stored,
        outcome.costs,
        outcome.requests,
    )
    record = outcome.record
    assert record is not None
    assert (ID, UsageKind.FINAL, SETTLEMENT.usage, BACKEND, BACKEND) == (
        record.record_id,
        record.kind,
        record.usage,
        record.input_source,
        record.output_source,
    )
    assert (BORN - 5, BORN + 300, BORN + 9000, "", FACTS, None) == (
        record.started_ms,
        record.first_token_ms,
        record.ended_ms,
        record.flags,
        record.facts,
        record.corrects,
    )


@pytest.mark.parametrize("event", EVERY_EVENT)
def test_nothing_moves_a_settled_exchange(event):
    assert Transition(Settled()) == advance(Settled(), event, NOW)


@pytest.mark.parametrize("stored", [None, Released()])
def test_a_lost_reservation_is_billed_all_the_same(stored):
    """From the ledger's facts; the limits are charged the whole."""
    outcome = advance(stored, SETTLEMENT, NOW)

    assert (Settled(), USED) == (outcome.stored, outcome.costs)
    assert advance(OPEN, SETTLEMENT, NOW).record == outcome.record


def test_what_ended_long_ago_and_is_lost_is_billed_but_fills_no_limit():
    """A ledger replayed from its start would else refuse its tenants for days."""
    just = replace(SETTLEMENT, ended_ms=BORN + 1)

    for age, costs in (RESTORE_MS, USED), (RESTORE_MS + 1, NOTHING):
        outcome = advance(None, just, just.ended_ms + age)
        assert (Settled(), costs) == (outcome.stored, outcome.costs)
        assert outcome.record is not None
    released = advance(Released(), just, just.ended_ms + RESTORE_MS + 1)
    assert USED == released.costs


@pytest.mark.parametrize(
    ("ended_ms", "expected"),
    [
        (BORN - 100, BORN),
        (BORN + 1, BORN + 1),
        (NOW + 100, NOW),
    ],
)
def test_the_end_lies_between_birth_and_now(ended_ms, expected):
    """A skewed clock or a late replay must not bill a wrong hour."""
    record = advance(OPEN, replace(SETTLEMENT, ended_ms=ended_ms), NOW).record

    assert record is not None
    assert expected == record.ended_ms


def test_a_beat_charges_what_exceeds_the_reservation():
    first = advance(OPEN, BEAT, NOW)
    second = advance(first.stored, replace(BEAT, usage=TokenUsage(9, 40)), NOW)

    assert (Reserved(FACTS, RESERVED, BEAT), NOTHING) == (first.stored, first.costs)
    assert Costs(9 + 40 * 5, 9 * 3 + 40 * 7) - RESERVED == second.costs


def test_units_and_money_are_outgrown_apart():
    """Cheap tokens of a large weight: the money reserved suffices for longer."""
    beat = replace(BEAT, usage=TokenUsage(0, 23))

    assert Costs(5, 0) == advance(OPEN, beat, NOW).costs


def test_a_late_beat_lowers_nothing():
    """Counts only grow; where they come from is told by the newest."""
    late = replace(BEAT, usage=TokenUsage(11, 1), output_source=ESTIMATE, at_ms=BORN)
    outcome = advance(Reserved(FACTS, RESERVED, BEAT), late, NOW)

    expected = replace(BEAT, usage=TokenUsage(11, 4))
    assert (Reserved(FACTS, RESERVED, expected), NOTHING) == (
        outcome.stored,
        outcome.costs,
    )


@pytest.mark.parametrize("is_first", [True, False])
def test_an_estimate_of_the_input_ends_where_it_was_counted(is_first):
    """Whichever is told first, and though the estimate was larger."""
    guess = replace(
        BEAT,
        usage=TokenUsage(50, 0),
        input_source=ESTIMATE,
        at_ms=BORN + (1 if is_first else 6000),
    )
    beats = [guess, BEAT] if is_first else [BEAT, guess]

    stored: Stored = None
    for beat in beats:
        stored = advance(stored, beat, BORN + 7000).stored

    assert isinstance(stored, Reserved)
    assert stored.last_beat is not None
    assert TokenUsage(9, 4) == stored.last_beat.usage
    assert BACKEND is stored.last_beat.input_source


def test_a_beat_opens_what_redis_lost():
    young = replace(BEAT, at_ms=NOW - RESTORE_MS)
    old = replace(BEAT, at_ms=NOW - RESTORE_MS - 1)

    costs = Costs(29, 9 * 3 + 4 * 7)
    outcome = advance(None, young, NOW)
    assert (Reserved(FACTS, costs, young), costs) == (outcome.stored, outcome.costs)
    assert Transition(None) == advance(None, old, NOW)


def test_only_what_redis_never_knew_is_charged_late():
    """Admitted while it was away; the others were charged when they began."""
    beaten = Reserved(FACTS, RESERVED, BEAT)

    assert NOW - SETTLEMENT.ended_ms == advance(None, SETTLEMENT, NOW).late_ms
    assert NOW - BEAT.at_ms == advance(None, BEAT, NOW).late_ms
    assert 0 == advance(None, replace(BEAT, at_ms=NOW + 9), NOW).late_ms
    for stored in (OPEN, beaten, REAPED, Released()):
        for event in (BEAT, SETTLEMENT):
            assert 0 == advance(stored, event, NOW).late_ms


@pytest.mark.parametrize("stored", [REAPED, Released()])
def test_a_beat_opens_nothing_that_was_closed(stored):
    assert Transition(stored) == advance(stored, BEAT, NOW)


def test_reaping_without_a_beat_bills_the_input_estimate():
    outcome = advance(OPEN, REAP, NOW)
    record = outcome.record

    assert record is not None
    assert (UsageKind.ABANDONED, TokenUsage(10), ESTIMATE, ESTIMATE, BORN, BORN) == (
        record.kind,
        record.usage,
        record.input_source,
        record.output_source,
        record.started_ms,
        record.ended_ms,
    )
    assert None is record.first_token_ms
    assert (Abandoned(RESERVED, record), NOTHING, 0) == (
        outcome.stored,
        outcome.costs,
        outcome.requests,
    )


def test_reaping_bills_the_last_beat():
    record = advance(Reserved(FACTS, RESERVED, BEAT), REAP, NOW).record

    assert record is not None
    assert (TokenUsage(9, 4), BACKEND, METER, BORN + 300, BORN + 5000) == (
        record.usage,
        record.input_source,
        record.output_source,
        record.first_token_ms,
        record.ended_ms,
    )


def test_reaping_what_is_not_open_writes_nothing():
    assert isinstance(REAPED, Abandoned)
    assert Transition(REAPED) == advance(REAPED, REAP, NOW)
    assert Transition(Released()) == advance(None, REAP, NOW)


def test_settling_late_corrects_record_and_limits():
    """Signed differences, in the hour of the record they correct."""
    assert isinstance(REAPED, Abandoned)
    outcome = advance(REAPED, SETTLEMENT, NOW)
    record = outcome.record

    assert record is not None
    assert (Settled(), USED - RESERVED) == (outcome.stored, outcome.costs)
    assert (f"{ID}#adj", ID, UsageKind.ADJUSTMENT, TokenUsage(2, 8, 2, 1), BORN) == (
        record.record_id,
        record.corrects,
        record.kind,
        record.usage,
        record.ended_ms,
    )


def test_settling_late_with_the_same_counts_needs_no_adjustment():
    same = replace(SETTLEMENT, usage=TokenUsage(10))

    outcome = advance(REAPED, same, NOW)
    assert (Settled(), None) == (outcome.stored, outcome.record)
    assert Costs(10, 30) - RESERVED == outcome.costs


def test_releasing_what_was_reaped_takes_its_record_back():
    """It was never admitted: nobody pays the estimate."""
    outcome = advance(REAPED, RELEASE, NOW)

    assert outcome.record is not None
    assert TokenUsage(-10) == outcome.record.usage
    assert NOTHING - RESERVED == outcome.costs
    assert Settled() == outcome.stored
