"""One stream of requests, from its first message to its end.

Its messages here are those of chats: what they are is the inner admission's business.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.test_admission import (
    CATALOG,
    DEBITS,
    DENIED,
    GRANTED,
    ID,
    body,
    headers,
)
from tollhouse.core.admission import Admission
from tollhouse.core.admission_messages import (
    Refuse,
    Release,
    ReservationAnswered,
    Reserve,
    StreamEnded,
)
from tollhouse.core.experience import Experience
from tollhouse.core.limits import Measure
from tollhouse.core.problems import Kind, Problem, ProtocolError
from tollhouse.core.reservation import joined
from tollhouse.core.stream_admission import (
    Broken,
    Finish,
    Forward,
    HalfClosed,
    Message,
    Open,
    State,
    Stop,
    StreamAdmission,
)

YES, NO = ReservationAnswered(GRANTED), ReservationAnswered(DENIED)
BAD = Broken(Problem(Kind.INVALID_REQUEST, "Not a message."))
LEFT = StreamEnded()


def begin(scopes="chat:write"):
    def admission():
        return Admission(ID, CATALOG, Experience())

    return StreamAdmission(headers(scopes), admission)


def opened():
    stream = begin()
    stream.receive(message())
    command = stream.receive(YES)
    assert isinstance(command, Open)
    return stream, command.admit


def message(**fields):
    return Message(body(**fields))


def reservation(stream, event):
    command = stream.receive(event)
    assert isinstance(command, Reserve)
    return command.reservation


def test_the_first_message_opens_the_exchange():
    """As a request that comes alone would."""
    stream = begin()
    first = reservation(stream, message())
    command = stream.receive(YES)

    assert (ID, 1, None) == (first.exchange_id, first.ordinal, first.so_far)
    assert isinstance(command, Open)
    assert DEBITS == command.admit.facts.debits
    assert State.OPEN is stream.state


def test_each_further_message_tops_it_up():
    """It pays for itself alone; the ledger's facts are of all."""
    stream, admit = opened()
    second = reservation(stream, message(max_tokens=10))
    forward = stream.receive(YES)
    third = reservation(stream, message(max_tokens=20))

    assert (2, admit.facts, 10) == (
        second.ordinal,
        second.so_far,
        second.facts.output_estimate,
    )
    assert isinstance(forward, Forward)
    assert joined(admit.facts, second.facts) == forward.admit.facts
    assert DEBITS == forward.admit.facts.debits
    assert (3, forward.admit.facts) == (third.ordinal, third.so_far)


def test_a_further_message_takes_no_place_of_its_own():
    """And is judged by the limits that the exchange is charged to."""
    stream, _ = opened()
    further = reservation(stream, message())

    assert {Measure.UNITS} == {it.measure for it in further.limits}


def test_the_first_message_refused_is_the_streams_end():
    """By its content, by the limits, or because it is none."""
    for refuse in (lambda it: it.receive(message(model="gone")), denied, broken):
        stream = begin()

        assert isinstance(refuse(stream), Refuse)
        assert State.REFUSED is stream.state
        assert None is stream.receive(LEFT)


def denied(stream):
    stream.receive(message())
    return stream.receive(NO)


def broken(stream):
    return stream.receive(BAD)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (message(model="gone"), Kind.MODEL_NOT_FOUND),
        (message(model="large"), Kind.INVALID_REQUEST),
        (message(max_tokens=-1), Kind.INVALID_REQUEST),
        (BAD, Kind.INVALID_REQUEST),
    ],
    ids=["uncovered", "another model", "bad field", "no message"],
)
def test_a_further_message_refused_ends_the_clients_side(event, kind):
    """What went on before it is answered; what comes after it is swallowed."""
    stream, _ = opened()
    command = stream.receive(event)

    assert isinstance(command, Stop)
    assert kind is command.problem.kind
    assert None is stream.receive(message())
    assert None is stream.receive(BAD)
    assert None is stream.receive(HalfClosed())
    assert None is stream.receive(LEFT)
    assert State.STOPPED is stream.state


def test_a_further_message_over_a_limit_says_when_to_come_again():
    stream, _ = opened()
    stream.receive(message())
    command = stream.receive(NO)

    assert isinstance(command, Stop)
    assert Kind.RATE_LIMITED is command.problem.kind
    assert "2500" == command.problem.headers["retry-after-ms"]


def test_the_end_goes_on_when_the_client_has_said_all():
    stream, _ = opened()

    assert Finish() == stream.receive(HalfClosed())
    assert None is stream.receive(LEFT)


def test_a_stream_without_a_message_is_refused():
    """An answer without a request would be nobody's exchange."""
    command = begin().receive(HalfClosed())

    assert isinstance(command, Refuse)
    assert Kind.INVALID_REQUEST is command.problem.kind


def test_a_verdict_that_nobody_waits_for_breaks_the_contract():
    for stream in (begin(), opened()[0]):
        with pytest.raises(ProtocolError, match="a verdict in"):
            stream.receive(YES)


def test_who_leaves_while_room_is_asked_for_gets_it_back():
    """The first message alone: a further one's is settled with the exchange."""
    stream = begin()
    first = reservation(stream, message())

    assert Release(first) == stream.receive(LEFT)
    assert None is stream.receive(LEFT)

    stream, _ = opened()
    stream.receive(message())
    assert None is stream.receive(LEFT)


def test_what_nobody_could_judge_may_have_been_reserved():
    """Redis did not answer in time: the client is refused, and all given back."""
    stream = begin()
    first = reservation(stream, message())

    assert isinstance(stream.receive(BAD), Refuse)
    assert Release(first) == stream.receive(LEFT)


def test_a_path_that_does_not_exist_breaks_the_contract():
    stream = StreamAdmission(
        headers(path="/v1/models", method="GET"),
        lambda: Admission(ID, CATALOG, Experience()),
    )

    with pytest.raises(ProtocolError):
        stream.receive(message())


events = st.lists(
    st.sampled_from(
        [
            message(),
            message(model="large"),
            message(max_tokens=-1),
            YES,
            NO,
            BAD,
            HalfClosed(),
            LEFT,
        ]
    ),
    max_size=12,
)


@given(events)
def test_nothing_goes_on_that_was_not_granted(sequence):
    """In whatever order things come; and nothing after the end."""
    stream = begin()
    granted = is_over = False
    for event in sequence:
        try:
            command = stream.receive(event)
        except ProtocolError:
            return
        if isinstance(command, Open | Forward):
            assert event is YES
            assert not is_over
            assert isinstance(command, Open) is not granted
            granted = True
        is_over = is_over or isinstance(command, Refuse | Stop | Finish)
