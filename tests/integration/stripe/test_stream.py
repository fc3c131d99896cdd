"""Stripe's meter event stream as the provider: many events a call."""

import itertools
import time

import pytest

from tests.integration.stripe.parts import (
    CUSTOMER,
    EVENT_NAME,
    attempt,
    stripe_account,
)
from tests.stripe_stand_in.stand_in import StandIn
from tollhouse.adapters.stripe.meter_stream import MOST_AT_ONCE, MeterEventStream
from tollhouse.core.chunk import Answer, Attempt, Verdict
from tollhouse.core.problems import Unavailable

SESSION = "/v2/billing/meter_event_session"
STREAM = "/v2/billing/meter_event_stream"


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def stream(stand_in: StandIn, clock: Clock):
    stand_in.add_customer(CUSTOMER)
    stand_in.add_meter(EVENT_NAME)
    async with stripe_account(stand_in, seconds=2.0) as client:
        yield MeterEventStream(client, clock=clock)


def batch(count: int = MOST_AT_ONCE, *, number: int = 1) -> list[Attempt]:
    return [attempt(seq, seq, number=number) for seq in range(1, count + 1)]


def calls(stand_in: StandIn, path: str) -> int:
    return [call.path for call in stand_in.calls].count(path)


async def test_a_hundred_chunks_in_one_call(stand_in, stream):
    """Each with its own identifier, value and minute."""
    sent = batch()

    assert await stream.ship(sent) == [Answer(Verdict.ACCEPTED)] * 100
    assert [
        (event.identifier, event.value, event.timestamp) for event in stand_in.events
    ] == [(it.chunk.identifier, it.chunk.value, it.chunk.timestamp) for it in sent]
    assert (calls(stand_in, STREAM), calls(stand_in, SESSION)) == (1, 1)
    assert stand_in.violations == []
    start = sent[0].chunk.timestamp
    assert await stream.total(CUSTOMER, EVENT_NAME, start, start + 3600) == 5050


async def test_a_session_is_replaced_before_it_ends(stand_in, stream, clock):
    """By our own clock, so that no call is lost to an expired one."""
    for at in (0, 800, 841, 1600):
        moved = at - (stand_in.clock.now() - time.time())
        stand_in.clock.advance(moved)
        clock.now += moved
        await stream.ship([attempt(at % 59 + 1)])

    assert calls(stand_in, SESSION) == 2
    assert stand_in.counts["session_expired"] == 0


async def test_an_expired_session_is_replaced(stand_in, stream):
    """Stripe's clock decides; the events of the refused call are sent again."""
    await stream.ship([attempt(1)])
    stand_in.clock.advance(16 * 60)

    assert await stream.ship(batch(2)) == [Answer(Verdict.ACCEPTED)] * 2
    assert stand_in.counts["session_expired"] == 1
    assert calls(stand_in, SESSION) == 2
    assert len(stand_in.events) == 2


async def test_one_bad_event_does_not_take_the_others_along(stand_in, stream):
    """The blame is narrowed down to it."""
    sent = batch()
    sent[41] = attempt(42, 42, known_as="x" * 101)

    answers = await stream.ship(sent)

    blamed = [at for at, it in enumerate(answers) if it.verdict is not Verdict.ACCEPTED]
    assert blamed == [41]
    assert answers[41] == Answer(Verdict.POISON, "parameter_invalid_string")
    assert sorted(event.value for event in stand_in.events) == [
        it.chunk.value for at, it in enumerate(sent) if at != 41
    ]
    keys = [call.idempotency_key for call in stand_in.calls if call.path == STREAM]
    assert len(set(keys)) == len(keys) < 20


async def test_looking_for_the_bad_event_ends_in_time(stand_in, clock):
    """What was not tried again is sent another time; nothing is blamed for it."""
    stand_in.add_customer(CUSTOMER)
    stand_in.add_meter(EVENT_NAME)

    class Slow(MeterEventStream):
        async def _create(self, attempts, token) -> None:
            clock.now += 4
            await super()._create(attempts, token)

    sent = batch(16)
    sent[0] = attempt(1, 1, known_as="x" * 101)
    async with stripe_account(stand_in, seconds=5) as client:
        answers = await Slow(client, clock=clock).ship(sent)

    assert set(answers) == {Answer(Verdict.REFUSED, "not_tried")}
    assert calls(stand_in, STREAM) == 2
    assert stand_in.events == []


@pytest.mark.parametrize(
    ("fault", "verdict", "is_applied"),
    [
        ("rate_limit", Verdict.REFUSED, False),
        ("conflict", Verdict.UNKNOWN, False),
        ("error_before", Verdict.UNKNOWN, False),
        ("error_after", Verdict.UNKNOWN, True),
        ("reset_before", Verdict.UNKNOWN, False),
        ("reset_after", Verdict.UNKNOWN, True),
        ("hang_after", Verdict.UNKNOWN, True),
    ],
)
async def test_a_call_that_fails_fails_for_all(
    stand_in, stream, fault, verdict, is_applied
):
    """Nobody is blamed, nothing is split up; sent again, each counts once."""
    stand_in.faults.plan(fault, STREAM)

    answers = await stream.ship(batch(3))

    assert {answer.verdict for answer in answers} == {verdict}
    assert len(answers) == 3
    assert calls(stand_in, STREAM) == 1
    assert len(stand_in.events) == 3 * is_applied
    assert {it.verdict for it in await stream.ship(batch(3, number=2))} == {
        Verdict.ACCEPTED
    }
    assert [event.value for event in stand_in.events] == [1, 2, 3]


@pytest.mark.parametrize("fault", ["rate_limit", "error_after", "hang_after"])
async def test_without_a_session_nothing_was_sent(stand_in, stream, fault):
    """So nothing is in doubt, whatever went wrong about it."""
    stand_in.faults.plan(fault, SESSION)

    answers = await stream.ship(batch(2))

    assert {answer.verdict for answer in answers} == {Verdict.REFUSED}
    assert calls(stand_in, STREAM) == 0


async def test_a_refused_key_stops_everything(stand_in):
    """For the session; and for a session that stays refused."""
    async with stripe_account(stand_in, key="rk_test_nobody") as client:
        with pytest.raises(Unavailable, match="refuses our API key"):
            await MeterEventStream(client).ship([attempt()])


async def test_sessions_that_stay_refused(stand_in, stream):
    """A new session is tried once, not for ever."""

    class Forgetful(dict):
        def __contains__(self, key: object) -> bool:
            return False

    stand_in.sessions = Forgetful()

    with pytest.raises(Unavailable, match="refuses our API key"):
        await stream.ship([attempt()])
    assert calls(stand_in, STREAM) == 2


async def test_each_call_has_its_own_key(stand_in, stream):
    """That of the attempt where it is alone: error reports name it."""
    await stream.ship([attempt(7, number=2)])
    await stream.ship(batch(3))
    await stream.ship(batch(3, number=2))

    keys = [call.idempotency_key for call in stand_in.calls if call.path == STREAM]
    assert keys[0] == attempt(7, number=2).key
    assert all(one != other for one, other in itertools.pairwise(keys))
