"""Books kept rightly balance whatever happened; whatever is broken in them is named."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.book import Book
from tollhouse.core.chunk import State
from tollhouse.core.reconciliation import (
    EXCHANGES,
    OVERDUE_SECONDS,
    QUANTITIES,
    Difference,
    Finding,
    Flow,
    Listed,
    RowBooks,
    Span,
    Totals,
    differences,
)
from tollhouse.core.windows import AS_PROMISED, BILLED, Position, TokenType

PLACE = Position("acme", 497_000, "tiny-chat")
DUE = float(AS_PROMISED.due(PLACE.hour, 0))
NOW = DUE + 10
OUTPUT = TokenType.OUTPUT

Amounts = dict[str, int]


@dataclass
class Row:
    """One row of a gateway and an aggregator, as they keep it."""

    settled: Counter[str] = field(default_factory=Counter)
    outbox: list[Amounts] = field(default_factory=list)
    refused: list[Amounts] = field(default_factory=list)
    dropped: list[Amounts] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    sealed: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    discarded: Counter[str] = field(default_factory=Counter)
    last_seq: Counter[str] = field(default_factory=Counter)
    open_seq: Counter[str] = field(default_factory=Counter)
    open: list[tuple[TokenType, Listed]] = field(default_factory=list)
    parked: list[tuple[TokenType, Listed]] = field(default_factory=list)
    due: float | None = None

    def settle(self, amounts: Amounts) -> None:
        self.settled.update(amounts)
        self.outbox.append(amounts)

    def relay(self, at: int) -> None:
        if self.outbox:
            self.counted.update(self.outbox.pop(at % len(self.outbox)))
            self.due = DUE if self.due is None else self.due

    def move(self, source: list[Amounts], target: list[Amounts], at: int) -> None:
        if source:
            target.append(source.pop(at % len(source)))

    def seal(self) -> None:
        rest = False
        for it in BILLED:
            value = self.counted[it] - self.sealed[it]
            if value and self.open_seq[it]:
                rest = True
            elif value:
                self.last_seq[it] += 1
                self.sealed[it] += value
                self.open_seq[it] = self.last_seq[it]
                chunk = Listed(self.last_seq[it], value, State.OPEN)
                self.open.append((it, chunk))
        if not rest:
            self.due = None

    def send(self, at: int, *, is_taken: bool) -> None:
        if not self.open:
            return
        it, chunk = self.open.pop(at % len(self.open))
        if self.open_seq[it] == chunk.seq:
            self.open_seq[it] = 0
        if is_taken:
            self.accepted[it] += chunk.value
        else:
            self.parked.append((it, replace(chunk, state=State.PARKED)))

    def resolve(self, at: int, action: str) -> None:
        if not self.parked:
            return
        it, chunk = self.parked.pop(at % len(self.parked))
        if action == "retry":
            self.open.append((it, replace(chunk, state=State.OPEN)))
        elif action == "reseal":
            self.sealed[it] -= chunk.value
            self.due = DUE
        elif action == "settle":
            has = at % 5
            self.accepted[it] += has
            if chunk.value != has:
                self.sealed[it] -= chunk.value - has
                self.due = DUE
        else:
            self.discarded[it] += chunk.value

    def books(self) -> RowBooks:
        def waiting(records: list[Amounts], quantity: str) -> int:
            return sum(it[quantity] for it in records)

        return RowBooks(
            place=PLACE,
            flows={
                it: Flow(
                    settled=Span(self.settled[it], self.settled[it]),
                    outbox=Span.over(waiting(self.outbox, it)),
                    refused=waiting(self.refused, it),
                    dropped=waiting(self.dropped, it),
                )
                for it in QUANTITIES
            },
            counted={it: self.counted[it] for it in QUANTITIES},
            books={
                it: Book(
                    total=self.counted[it],
                    sealed=self.sealed[it],
                    accepted=self.accepted[it],
                    parked=sum(c.value for of, c in self.parked if of is it),
                    discarded=self.discarded[it],
                    last_seq=self.last_seq[it],
                    open_seq=self.open_seq[it],
                )
                for it in BILLED
            },
            open={it: [c for of, c in self.open if of is it] for it in BILLED},
            parked={it: [c for of, c in self.parked if of is it] for it in BILLED},
            due=self.due,
            is_listed=True,
        )


@st.composite
def amounts(draw: st.DrawFn) -> Amounts:
    """What one record adds; an adjustment is no exchange and has signed counts."""
    is_adjustment = draw(st.booleans())
    counts = st.integers(-9, 9) if is_adjustment else st.integers(0, 9)
    found: Amounts = {it: draw(counts) for it in TokenType}
    return {**found, EXCHANGES: int(not is_adjustment)}


NUMBERS = st.integers(0, 99)
STEPS = st.one_of(
    st.builds(lambda it: lambda row: row.settle(it), amounts()),
    st.builds(lambda at: lambda row: row.relay(at), NUMBERS),
    st.builds(lambda at: lambda row: row.move(row.outbox, row.refused, at), NUMBERS),
    st.builds(lambda at: lambda row: row.move(row.refused, row.outbox, at), NUMBERS),
    st.builds(lambda at: lambda row: row.move(row.refused, row.dropped, at), NUMBERS),
    st.just(lambda row: row.seal()),
    st.builds(
        lambda at, taken: lambda row: row.send(at, is_taken=taken),
        NUMBERS,
        st.booleans(),
    ),
    st.builds(
        lambda at, action: lambda row: row.resolve(at, action),
        NUMBERS,
        st.sampled_from(["retry", "reseal", "discard", "settle"]),
    ),
)
HISTORIES: st.SearchStrategy[list[Callable[[Row], None]]] = st.lists(STEPS, max_size=40)


def after(history: list[Callable[[Row], None]]) -> Row:
    row = Row()
    for step in history:
        step(row)
    return row


@given(history=HISTORIES)
def test_every_history_balances(history):
    assert [] == differences(after(history).books(), NOW)


def named(row: RowBooks, now: float = NOW) -> set[tuple[Finding, str]]:
    return {(it.finding, it.quantity) for it in differences(row, now)}


@given(
    history=HISTORIES,
    quantity=st.sampled_from(QUANTITIES),
    wrong=st.integers(-5, 5).filter(bool),
)
def test_tokens_that_a_window_lost_or_doubled_are_found(history, quantity, wrong):
    """Whatever else goes on in the row."""
    row = after(history)
    row.counted[quantity] += wrong

    found = {it for it, of in named(row.books()) if of == quantity}

    if wrong > 0:
        assert Finding.SURPLUS in found
    else:
        assert found & {Finding.MISSING, Finding.REPLAYED}


@given(history=HISTORIES, at=NUMBERS)
def test_a_record_that_left_the_outbox_and_came_nowhere_is_found(history, at):
    row = after(history)
    row.settle(dict.fromkeys(QUANTITIES, 3))
    row.outbox.pop()

    findings = {it for it, _ in named(row.books())}

    assert findings <= {Finding.MISSING, Finding.REPLAYED}
    assert findings


@given(
    history=HISTORIES,
    token_type=st.sampled_from(BILLED),
    counter=st.sampled_from(["sealed", "accepted", "discarded"]),
    wrong=st.integers(-5, 5).filter(bool),
)
def test_a_counter_that_is_off_is_found(history, token_type, counter, wrong):
    row = after(history)
    getattr(row, counter)[token_type] += wrong

    assert (Finding.CHUNKS, token_type) in named(row.books())


@given(history=HISTORIES, token_type=st.sampled_from(BILLED), is_open=st.booleans())
def test_a_chunk_that_is_in_no_list_is_found(history, token_type, is_open):
    """Open ones would never be sent, parked ones never be seen."""
    row = after(history)
    row.settle(dict.fromkeys(QUANTITIES, 3))
    row.relay(-1)
    chunk = Listed(row.last_seq[token_type] + 1, 3, State.OPEN)
    row.sealed[token_type] += 3
    books = row.books()
    if not is_open:
        parked = replace(
            books.books[token_type], parked=books.books[token_type].parked + chunk.value
        )
        books = replace(books, books={**books.books, token_type: parked})

    findings = named(books)

    assert (Finding.CHUNKS, token_type) in findings
    assert is_open is not ((Finding.PARKED, token_type) in findings)


def settled(**about) -> RowBooks:
    """One record of 5 of everything, in the windows, in line to be sealed."""
    row = Row()
    row.settle(dict.fromkeys(QUANTITIES, 5))
    row.relay(0)
    return replace(row.books(), **about)


def of(books: RowBooks, quantity: str) -> Flow:
    assert books.flows is not None
    return books.flows[quantity]


def flow(books: RowBooks, **about) -> RowBooks:
    flows = {it: replace(of(books, it), **about) for it in QUANTITIES}
    return replace(books, flows=flows)


def test_a_difference_says_what_was_expected_and_found():
    books = flow(settled(), settled=Span(12, 12))

    assert Difference(Finding.MISSING, PLACE, OUTPUT, 12, 5) in differences(books, NOW)


def test_whole_exchanges_that_may_have_been_settled_twice_are_a_question():
    """No more than is there once: all of it at most was settled twice."""
    twice = flow(settled(), settled=Span(10, 10))
    more = flow(settled(), settled=Span(11, 11))

    assert {Finding.REPLAYED} == {it for it, _ in named(twice)}
    assert {Finding.MISSING} == {it for it, _ in named(more)}


def test_tokens_without_their_exchange_were_not_replayed():
    books = settled()
    flows = {it: of(books, it) for it in QUANTITIES}
    flows[OUTPUT] = Flow(settled=Span(6, 6))

    assert {(Finding.MISSING, OUTPUT)} == named(replace(books, flows=flows))


@pytest.mark.parametrize(
    ("span", "outbox", "expected"),
    [
        # Settled while one read: in the windows or not yet.
        (Span(3, 5), Span(), set()),
        (Span(5, 9), Span(), set()),
        (Span(6, 9), Span(), {Finding.REPLAYED}),
        (Span(1, 4), Span(), {Finding.SURPLUS}),
        # Came into the windows while one read.
        (Span(5, 5), Span(0, 2), set()),
        (Span(7, 7), Span(0, 2), set()),
        (Span(8, 8), Span(0, 2), {Finding.REPLAYED}),
        (Span(4, 4), Span(0, 2), {Finding.SURPLUS}),
    ],
)
def test_what_moved_while_one_read_is_no_difference(span, outbox, expected):
    books = flow(settled(), settled=span, outbox=outbox)

    assert expected == {it for it, _ in named(books)}


def test_spans_join_and_tell_how_far_a_number_is_outside():
    span = Span(2, 5).joined(Span(4, 9))

    assert Span(2, 9) == span
    assert [-1, 0, 0, 3] == [span.outside(it) for it in (1, 2, 9, 12)]


def test_hours_of_which_the_gateway_keeps_no_sums_are_compared_behind_it():
    books = settled(flows=None, due=None)

    assert {(Finding.UNQUEUED, it) for it in BILLED} == named(books)


def test_what_is_in_no_line_will_never_be_sealed():
    assert {(Finding.UNQUEUED, it) for it in BILLED} == named(settled(due=None))


def test_what_is_sealed_needs_no_line():
    row = Row()
    row.settle(dict.fromkeys(QUANTITIES, 5))
    row.relay(0)
    row.seal()

    assert set() == named(replace(row.books(), due=None))


def test_sealing_may_be_late_for_an_hour():
    late = DUE + OVERDUE_SECONDS

    assert set() == named(settled(), late)
    assert {(Finding.OVERDUE, it) for it in BILLED} == named(settled(), late + 1)


def test_a_tenant_that_is_no_customer_is_named():
    """It is put off again and again, so it is never overdue by its line."""
    books = settled(due=DUE + 99 * 3600, has_account=False)
    late = DUE + OVERDUE_SECONDS

    assert set() == named(books, late)
    assert {(Finding.UNLINKED, it) for it in BILLED} == named(books, late + 1)


def test_a_row_that_no_list_shows_is_found():
    assert {(Finding.UNLISTED, EXCHANGES)} == named(settled(is_listed=False))


def test_a_window_that_waits_for_a_chunk_nobody_sends_is_stuck():
    books = settled()
    book = replace(books.books[OUTPUT], open_seq=1)

    found = named(replace(books, books={**books.books, OUTPUT: book}))

    assert {(Finding.STUCK, OUTPUT)} == found


def test_a_chunk_in_the_wrong_list_counts_for_nothing():
    books = settled()
    book = replace(books.books[OUTPUT], sealed=5)
    chunk = Listed(1, 5, State.DISCARDED)
    books = replace(books, books={**books.books, OUTPUT: book}, open={OUTPUT: [chunk]})

    assert {(Finding.CHUNKS, OUTPUT)} == named(books)


def test_chunks_that_changed_while_one_read_are_not_compared():
    books = settled(due=None, is_moving=True)
    book = replace(books.books[OUTPUT], sealed=2, parked=1, open_seq=1)

    assert set() == named(replace(books, books={**books.books, OUTPUT: book}))


@given(history=HISTORIES)
def test_totals_say_where_every_token_is(history):
    books = after(history).books()
    totals = Totals()

    totals.add(books)
    totals.add(replace(books, flows=None, is_moving=True))

    assert (2, 1, 1) == (totals.rows, totals.not_covered, totals.moving)
    places = totals.unsealed + totals.under_way + totals.parked + totals.discarded
    assert totals.tokens == places + totals.accepted + totals.outbox
    waiting = of(books, EXCHANGES).outbox.low
    assert totals.exchanges == 2 * books.counted[EXCHANGES] + waiting
