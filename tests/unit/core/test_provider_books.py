"""What the provider should have follows from what is known of each chunk."""

from typing import Any

import pytest

from tollhouse.core.book import Book
from tollhouse.core.chunk import Account, Chunk, Progress, State, Window
from tollhouse.core.provider_books import Kept, Lane, accepted, by_day, expected
from tollhouse.core.reconciliation import Finding, Span
from tollhouse.core.windows import TokenType

WINDOW = Window("acme", "tiny-chat", TokenType.OUTPUT, 497_000)
LANE = Lane("stripe", "cus_acme", "tollhouse.tiny-chat.output")
SHOWN = 1_000.0


def kept(value: int, *, seq: int = 1, sent_at: float = 0.0, **progress: Any) -> Kept:
    chunk = Chunk(
        window=WINDOW,
        seq=seq,
        value=value,
        timestamp=WINDOW.hour * 3600,
        identifier=f"th1_00_{seq}",
        event_name=LANE.event_name,
        account=Account(LANE.provider, LANE.customer),
    )
    return Kept(chunk, Progress(**progress), sent_at)


SENT: Any = {"state": State.SENT}


@pytest.mark.parametrize(
    ("chunk", "span"),
    [
        (kept(7, sent_at=999.0, **SENT), Span(7, 7)),
        (kept(7, sent_at=SHOWN, **SENT), Span(7, 7)),
        (kept(7, sent_at=1_001.0, **SENT), Span(0, 7)),
        (kept(-7, sent_at=1_001.0, **SENT), Span(-7, 0)),
        (kept(7, doubt_at=5, doubted=1, attempts=1), Span(0, 7)),
        (kept(7, state=State.PARKED, doubt_at=5, doubted=1), Span(0, 7)),
        (kept(7, state=State.DISCARDED, doubt_at=5, doubted=1), Span(0, 7)),
        (kept(7), None),
        (kept(7, state=State.PARKED), None),
        (kept(7, state=State.DISCARDED), None),
    ],
)
def test_what_was_sent_is_there_and_what_is_in_doubt_may_be(chunk, span):
    found = expected([chunk], shown=SHOWN)

    assert ({} if span is None else {(LANE, WINDOW.hour): span}) == found


def test_chunks_of_a_lane_and_hour_add_up():
    chunks = [
        kept(7, sent_at=1.0, **SENT),
        kept(5, seq=2, doubt_at=5),
        kept(-3, seq=3, doubt_at=5),
    ]

    assert {(LANE, WINDOW.hour): Span(4, 12)} == expected(chunks, shown=SHOWN)


def test_a_windows_own_count_is_that_of_its_sent_chunks():
    chunks = {1: kept(7, **SENT), 2: kept(5, seq=2, state=State.PARKED)}

    assert None is accepted(Book(accepted=7, last_seq=2), WINDOW, chunks)
    difference = accepted(Book(accepted=12, last_seq=2), WINDOW, chunks)
    assert difference is not None
    assert (Finding.ACCEPTED, 12, 7) == (
        difference.finding,
        difference.expected,
        difference.found,
    )


def test_chunks_that_are_not_kept_any_more_are_no_difference():
    assert None is accepted(Book(accepted=7, last_seq=2), WINDOW, {2: kept(1, **SENT)})


def test_days_begin_at_midnight_utc():
    assert {0: [0, 23], 1: [24]} == by_day([24, 0, 23])
