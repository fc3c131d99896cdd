"""A chunk's life: whatever is lost, late or doubled, it is billed once."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tollhouse.core import chunk as chunks
from tollhouse.core.chunk import (
    GIVEN_UP_SECONDS,
    OLDEST_SECONDS,
    PATIENCE_SECONDS,
    TRUSTED_SECONDS,
    Account,
    Answer,
    Chunk,
    Progress,
    State,
    Step,
    Verdict,
    Window,
    conclude,
    identifier,
    next_step,
    parked,
    parse_id,
    pause_seconds,
    rejected,
    timestamp,
    verified,
)
from tollhouse.core.windows import TokenType

HOUR = 500_000
NOW = (HOUR + 1) * 3600 + 300
WINDOW = Window("acme", "tiny-chat", TokenType.OUTPUT, HOUR)
CHUNK = Chunk(
    window=WINDOW,
    seq=1,
    value=70,
    timestamp=timestamp(HOUR, 1),
    identifier=identifier("tollhouse", 8, WINDOW, 1),
    event_name="tollhouse.tiny-chat.output",
    account=Account("stripe", "cus_1"),
)
FIRST = Progress().begun(NOW)


def test_a_window_is_read_back_from_its_name():
    assert WINDOW == Window.parse(WINDOW.name)
    assert (WINDOW, 12) == parse_id(replace(CHUNK, seq=12).id)


@pytest.mark.parametrize("name", ["a|b|output", "a|b|words|1", "a|b|output|x", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r".*"):
        Window.parse(name)


def test_sixty_chunks_have_a_minute_each():
    """So a summary of that minute answers for one chunk."""
    minutes = [timestamp(HOUR, seq) for seq in range(1, 61)]

    assert list(range(HOUR * 3600, (HOUR + 1) * 3600, 60)) == minutes
    assert minutes[0] == timestamp(HOUR, 61)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["acme", "zeta"]),
            st.integers(0, 3),
            st.integers(1, 3),
        ),
        unique=True,
        max_size=20,
    )
)
def test_identifiers_differ_where_anything_does(parts):
    found = {
        identifier(deployment, 3, replace(WINDOW, tenant=tenant, hour=hour), seq)
        for deployment, tenant, hour, seq in parts
    }

    assert len(parts) == len(found)
    assert all(len(it) <= 100 for it in found)


def test_an_identifier_never_changes():
    """It is the provider's dedupe: a release that makes others bills twice."""
    assert "th1_08_e69905038616099793052a1f77a717e6dc9b7370" == CHUNK.identifier


@pytest.mark.parametrize(
    ("progress", "later", "step"),
    [
        (Progress(), 0, Step.SEND),
        (FIRST, TRUSTED_SECONDS, Step.SEND),
        (FIRST, TRUSTED_SECONDS + 1, Step.VERIFY),
        (Progress(attempts=9), TRUSTED_SECONDS + 1, Step.SEND),
        (Progress(verify_at=NOW), 0, Step.VERIFY),
        (FIRST, OLDEST_SECONDS, Step.VERIFY),
        (Progress(attempts=1), OLDEST_SECONDS, Step.PARK),
        (Progress(verify_at=NOW), GIVEN_UP_SECONDS, Step.PARK),
        (Progress(), TRUSTED_SECONDS, Step.VERIFY),
        (Progress(absent_at=NOW), TRUSTED_SECONDS, Step.SEND),
    ],
    ids=[
        "new",
        "in doubt, the identifier still known",
        "in doubt for too long",
        "refused for days, never in doubt",
        "told to",
        "too old and in doubt: perhaps it has arrived",
        "too old to be taken",
        "too old to be asked about",
        "old and never tried: a backup would say so too",
        "the same, and the provider has said that it has not",
    ],
)
def test_what_an_open_chunk_needs(progress, later, step):
    assert step is next_step(CHUNK, progress, NOW + later)


def test_an_accepted_chunk_is_sent():
    after = conclude(FIRST, number=1, answer=Answer(Verdict.ACCEPTED), now=NOW)

    assert State.SENT is after.state


def test_a_duplicate_after_an_attempt_in_doubt_is_delivered():
    second = conclude(FIRST, number=1, answer=Answer(Verdict.UNKNOWN), now=NOW)
    second = second.begun(NOW + 5)

    after = conclude(second, number=2, answer=Answer(Verdict.DUPLICATE), now=NOW + 6)

    assert State.SENT is after.state


def test_a_duplicate_of_a_shipper_that_overlapped_is_delivered():
    """Attempt 1 hears of attempt 2, which another process made meanwhile."""
    both = FIRST.begun(NOW)

    after = conclude(both, number=1, answer=Answer(Verdict.DUPLICATE), now=NOW)

    assert State.SENT is after.state


@pytest.mark.parametrize("refused", [0, 1, 3])
def test_a_duplicate_nobody_sent_is_verified(refused):
    """Our state is older than what we did: perhaps with another value."""
    progress = Progress()
    for number in range(1, refused + 1):
        progress = progress.begun(NOW)
        answer = Answer(Verdict.REFUSED)
        progress = conclude(progress, number=number, answer=answer, now=NOW)
    progress = progress.begun(NOW + 9)

    after = conclude(
        progress, number=refused + 1, answer=Answer(Verdict.DUPLICATE), now=NOW + 9
    )

    assert (State.OPEN, NOW + 9) == (after.state, after.verify_at)
    assert Step.VERIFY is next_step(CHUNK, after, NOW + 9)


@pytest.mark.parametrize("earlier", [0, 2])
def test_an_attempt_the_provider_has_seen_with_other_bytes_is_verified(earlier):
    """Even where earlier ones are in doubt: they were of another value."""
    progress = Progress()
    for _ in range(earlier + 1):
        progress = progress.begun(NOW)

    after = conclude(
        progress, number=earlier + 1, answer=Answer(Verdict.CONFLICT), now=NOW
    )

    assert (State.OPEN, NOW) == (after.state, after.verify_at)


def test_a_refused_attempt_leaves_no_doubt():
    """A provider that says 429 for two days has nothing of it."""
    after = conclude(FIRST, number=1, answer=Answer(Verdict.REFUSED), now=NOW)

    assert (0, 0, 1) == (after.doubt_at, after.doubted, after.attempts)
    assert Step.SEND is next_step(CHUNK, after, NOW + 48 * 3600)


@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.POISON])
def test_a_later_refusal_does_not_end_an_older_doubt(verdict):
    second = FIRST.begun(NOW + 60)

    after = conclude(second, number=2, answer=Answer(verdict), now=NOW + 60)

    assert (NOW, 1) == (after.doubt_at, after.doubted)


@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.POISON])
def test_a_refusal_does_not_end_the_doubt_of_one_begun_since(verdict):
    second = FIRST.begun(NOW + 60)

    after = conclude(second, number=1, answer=Answer(verdict), now=NOW + 60)

    assert (NOW, 1) == (after.doubt_at, after.doubted)


def test_poison_is_parked_with_its_code():
    answer = Answer(Verdict.POISON, "meter_event_invalid_value")

    after = conclude(FIRST, number=1, answer=answer, now=NOW)

    assert (State.PARKED, "meter_event_invalid_value") == (after.state, after.reason)
    assert 0 == after.doubt_at
    assert (
        "refused"
        == conclude(FIRST, number=1, answer=Answer(Verdict.POISON), now=NOW).reason
    )


@pytest.mark.parametrize(
    ("progress", "total", "state", "reason"),
    [
        (FIRST, 75, State.SENT, ""),
        (FIRST, 5, State.OPEN, ""),
        (Progress(), 5, State.OPEN, ""),
        (FIRST, 6, State.PARKED, "provider_differs"),
        (Progress(verify_at=NOW), 75, State.SENT, ""),
        (Progress(verify_at=NOW), 5, State.OPEN, ""),
        (Progress(verify_at=NOW), 40, State.PARKED, "provider_differs"),
    ],
)
def test_what_the_summary_of_its_minute_means(progress, total, state, reason):
    """5 are of another chunk of that minute."""
    after = verified(CHUNK, progress, others=5, total=total, now=NOW + 60)

    assert (state, reason) == (after.state, after.reason)


def test_what_was_not_found_after_a_day_is_sent_anew():
    after = verified(CHUNK, FIRST, others=0, total=0, now=NOW + 26 * 3600)

    assert (0, 0) == (after.doubt_at, after.doubted)
    assert Step.SEND is next_step(CHUNK, after, NOW + 26 * 3600)


def test_an_attempt_of_just_now_may_not_show_yet():
    """In doubt for a day, tried again a minute ago: absence says nothing."""
    again = FIRST.begun(NOW + 26 * 3600)

    early = verified(CHUNK, again, others=0, total=0, now=again.begun_at + 3600)
    later = verified(CHUNK, again, others=0, total=0, now=again.begun_at + 3601)

    assert (again, 0) == (early, later.doubt_at)


def test_a_report_about_the_last_attempt_parks():
    """It was taken and then not counted: nothing is in doubt any more."""
    sent = conclude(FIRST, number=1, answer=Answer(Verdict.ACCEPTED), now=NOW)

    for number in (1, 0):
        after = rejected(sent, number=number, code="no_meter", now=NOW + 9)

        assert (State.PARKED, "no_meter", 0) == (
            after.state,
            after.reason,
            after.doubt_at,
        )


@pytest.mark.parametrize("number", [0, 1])
def test_a_report_about_an_older_attempt_is_looked_into(number):
    """The later one may have been counted: sealed anew it would be billed twice."""
    sent = replace(FIRST.begun(NOW + 5), state=State.SENT)

    after = rejected(sent, number=number, code="no_meter", now=NOW + 9)

    assert (State.OPEN, NOW + 9) == (after.state, after.verify_at)
    assert Step.VERIFY is next_step(CHUNK, after, NOW + 9)


def test_a_duplicate_that_is_never_counted_is_parked():
    """Summaries lag behind, but not for ever."""
    progress = Progress(verify_at=NOW)
    at = NOW + PATIENCE_SECONDS

    waiting = verified(CHUNK, progress, others=0, total=0, now=at)
    after = verified(CHUNK, progress, others=0, total=0, now=at + 1)

    assert State.OPEN is waiting.state
    assert (State.PARKED, "duplicate_not_counted") == (after.state, after.reason)


def test_pauses_grow_up_to_the_longest():
    pauses = [pause_seconds(it, 0.999999, longest=60) for it in (1, 2, 3, 7, 2000)]

    assert [1, 2, 4, 60, 60] == [round(it) for it in pauses]
    assert 0.1 == pause_seconds(1, 0.0, longest=60)


@dataclass
class Stripe:
    """A provider that forgets identifiers after a day, and what it has counted."""

    known: dict[str, int] = field(default_factory=dict)
    counted: int = 0

    def take(self, it: Chunk, now: int) -> Verdict:
        if now - self.known.get(it.identifier, -(10**9)) < 24 * 3600:
            return Verdict.DUPLICATE
        self.known[it.identifier] = now
        self.counted += it.value
        return Verdict.ACCEPTED


class OneChunk(RuleBasedStateMachine):
    """Two shippers, a provider and time: any order, any loss, at most once counted."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.progress = Progress()
        self.stripe = Stripe()
        self.begun: list[tuple[int, Verdict | None]] = []

    def decide(self, change: Callable[[Progress], Progress]) -> None:
        if self.progress.state is State.OPEN:
            self.progress = change(self.progress)

    @rule(seconds=st.sampled_from([1, 60, 3600, 20 * 3600]))
    def wait(self, seconds):
        # A call is over, one way or another, long before an identifier is forgotten.
        if seconds > 60:
            self.begun.clear()
        self.now += seconds

    @precondition(lambda self: self.progress.state is State.OPEN)
    @rule(applied=st.booleans())
    def attempt(self, applied):
        """Begin, and let the provider have it or not; nobody knows the answer yet."""
        match next_step(CHUNK, self.progress, self.now):
            case Step.SEND:
                self.progress = self.progress.begun(self.now)
                verdict = self.stripe.take(CHUNK, self.now) if applied else None
                self.begun.append((self.progress.attempts, verdict))
            case Step.VERIFY:
                total = self.stripe.counted
                self.decide(
                    lambda it: verified(CHUNK, it, others=0, total=total, now=self.now)
                )
            case Step.PARK:
                self.decide(lambda it: parked(it, reason="too_old"))

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), heard=st.booleans(), said=st.booleans())
    def answer(self, data, heard, said):
        """One of the answers comes: the true one, or none."""
        at = data.draw(st.sampled_from(range(len(self.begun))))
        number, verdict = self.begun.pop(at)
        if verdict is None:
            # It never arrived: the connection was refused, or just fell silent.
            verdict = Verdict.REFUSED if said else Verdict.UNKNOWN
        elif not heard:
            verdict = Verdict.UNKNOWN
        answer = Answer(verdict)
        self.decide(lambda it: conclude(it, number=number, answer=answer, now=self.now))

    @invariant()
    def is_never_billed_twice(self):
        assert self.stripe.counted in (0, CHUNK.value)

    @invariant()
    def what_is_sent_is_billed(self):
        if self.progress.state is State.SENT:
            assert CHUNK.value == self.stripe.counted


TestOneChunk = OneChunk.TestCase


def test_the_module_says_what_it_relies_on():
    """The margin below the provider's promise of 24 hours and 35 days."""
    assert chunks.TRUSTED_SECONDS < 24 * 3600
    assert chunks.OLDEST_SECONDS < 35 * 24 * 3600
    assert chunks.PATIENCE_SECONDS < 24 * 3600 - chunks.TRUSTED_SECONDS + 1
