"""What the engine generated is what is billed, and never less than that."""

import msgspec
import pytest

from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.ids import exchange_id
from tollhouse.core.truth import (
    GRACE_SECONDS,
    Fault,
    Generated,
    Ledger,
    add_up,
    mismatches,
    not_billed,
    unheard,
)
from tollhouse.core.usage import CountSource, Facts, TokenUsage, UsageKind

NOW = 1_790_000_000.0
BEGAN = NOW - 1000
ID: str = exchange_id(int((NOW - 500) * 1000), b"0123456789")
BACKEND, METER, ESTIMATE = CountSource

FACTS = Facts(
    tenant="acme",
    key_id="abcdefghijkl",
    plan="demo",
    operation="chat",
    requested_model="tiny-chat",
    served_model="tiny-chat",
    cluster="tiny-chat",
    provider="triton",
    weights=(1, 0, 5),
    reserved_units=100,
    input_estimate=9,
    output_estimate=20,
)


def settlement(
    kind: UsageKind,
    input_tokens: int,
    output_tokens: int,
    *,
    source: CountSource = BACKEND,
    input_source: CountSource | None = None,
    **facts: str,
) -> Settlement:
    return Settlement(
        exchange_id=ID,
        facts=msgspec.structs.replace(FACTS, **facts),
        kind=kind,
        usage=TokenUsage(input_tokens, output_tokens),
        input_source=input_source or source,
        output_source=source,
        started_ms=0,
        first_ms=0,
        ended_ms=0,
        flags="",
    )


def beat(input_tokens: int, output_tokens: int) -> Beat:
    return Beat(
        exchange_id=ID,
        facts=FACTS,
        usage=TokenUsage(input_tokens, output_tokens),
        input_source=BACKEND,
        output_source=BACKEND,
        started_ms=0,
        first_ms=0,
        at_ms=0,
    )


def ledger(*entries, succeeded: bool = True) -> Ledger:
    book = Ledger({})
    book.hear(None, at=BEGAN, succeeded=True)
    for entry in entries:
        book.hear(entry, at=BEGAN + 1, succeeded=succeeded)
    return book


def faults(book: Ledger, input_tokens: int, output_tokens: int) -> list[Fault]:
    truth = {ID: Generated(input_tokens, output_tokens, NOW - 400)}
    return [it.fault for it in mismatches(truth, book, "triton")]


FINAL, PARTIAL = UsageKind.FINAL, UsageKind.PARTIAL


@pytest.mark.parametrize(
    ("entry", "generated", "expected"),
    [
        (settlement(FINAL, 10, 20), (10, 20), []),
        (settlement(FINAL, 10, 20), (10, 19), [Fault.MORE_BILLED]),
        (settlement(FINAL, 10, 20), (9, 20), [Fault.MORE_BILLED]),
        (settlement(FINAL, 10, 20), (10, 21), [Fault.LESS_BILLED]),
        (settlement(FINAL, 10, 20), (11, 20), [Fault.LESS_BILLED]),
        (settlement(PARTIAL, 10, 20), (10, 25), []),
        (settlement(PARTIAL, 10, 20), (10, 19), [Fault.MORE_BILLED]),
        # Events may hold several tokens; an input estimate may be off either way.
        (settlement(FINAL, 10, 20, source=METER), (10, 25), []),
        (settlement(PARTIAL, 99, 20, input_source=ESTIMATE), (10, 20), []),
        (
            settlement(PARTIAL, 99, 20, input_source=ESTIMATE),
            (10, 19),
            [Fault.MORE_BILLED],
        ),
        # Its Envoy is gone, or it still runs.
        (beat(10, 5), (10, 8), []),
        (beat(10, 9), (10, 8), [Fault.MORE_BILLED]),
        (Release(ID, "acme"), (10, 8), [Fault.NOT_ADMITTED]),
        (Release(ID, "acme"), (0, 0), []),
    ],
)
def test_the_end_that_was_seen_is_billed_whole_and_what_was_cut_never_more(
    entry, generated, expected
):
    assert expected == faults(ledger(entry), *generated)


def test_an_error_costs_nothing_whatever_the_engine_did():
    assert [] == faults(ledger(settlement(FINAL, 0, 0), succeeded=False), 10, 3)


def test_the_settlement_is_the_last_word():
    """A beat that a second reading brings behind it changes nothing."""
    assert [] == faults(
        ledger(beat(10, 5), settlement(FINAL, 10, 20), beat(10, 5)), 10, 20
    )


def test_choices_are_one_exchange():
    """Each has the whole input, and its own output."""
    lines = [(f"{ID}#0", 10, 5, 1.0), (f"{ID}#1", 10, 7, 3.0), ("probe", 1, 1, 2.0)]

    assert {ID: Generated(10, 12, 3.0)} == add_up(lines)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (BEGAN - 1, []),  # before the ledger that is left begins
        (NOW - GRACE_SECONDS + 1, []),  # may still get its record
        (NOW - GRACE_SECONDS - 1, [ID]),
    ],
)
def test_what_no_ledger_line_names_is_looked_for_once_it_must_be_there(at, expected):
    assert expected == unheard({ID: Generated(1, 1, at)}, ledger(), NOW)


def test_a_beat_is_a_line_too():
    assert [] == unheard({ID: Generated(1, 1, NOW - 400)}, ledger(beat(1, 1)), NOW)


def test_an_empty_ledger_says_nothing_about_the_engine():
    assert [] == unheard({ID: Generated(1, 1, NOW - 400)}, Ledger({}), NOW)


def test_what_was_billed_and_never_served_is_found():
    other: str = exchange_id(int((NOW - 600) * 1000), b"0123456789")
    truth = {other: Generated(1, 1, NOW - 600)}

    def found(entry: Settlement) -> list[Fault]:
        return [it.fault for it in mismatches(truth, ledger(entry), "triton")]

    assert [Fault.NOT_SERVED] == found(settlement(FINAL, 10, 20))
    # The engine knows it by an id of its client's.
    assert [] == found(settlement(FINAL, 10, 20, operation="infer"))
    assert [] == found(settlement(FINAL, 0, 0))  # refused by the backend
    assert [] == found(settlement(FINAL, 10, 20, provider="openai"))
    assert [] == mismatches({}, ledger(settlement(FINAL, 10, 20)), "triton")


def test_a_mismatch_shows_both_counts():
    found = not_billed(ID, Generated(10, 20, 0.0))

    assert (Fault.UNBILLED, (0, 0), (10, 20)) == (
        found.fault,
        found.billed,
        found.generated,
    )
