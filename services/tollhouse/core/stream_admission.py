"""The life of one stream of requests, sans-IO: an event in, a command out.

    WAITING ──message──▶ ASKING ──granted──▶ OPEN ──message──▶ TOPPING_UP
       │                    │                 ▲ └──▶ STOPPED ◀──refused──┘ │
       └────▶ REFUSED ◀─────┘ refused         └──────────granted───────────┘

One stream is one exchange, named before it comes here. Each message is judged by an
`Admission` of its own, as a request that came alone; the first opens the exchange, each
further one tops it up. One that is refused then ends the client's side: what went on
before it is answered and settled, and the trailers say why no more is.
"""

import dataclasses
from collections.abc import Callable
from enum import Enum, auto
from typing import assert_never

import msgspec
from msgspec.structs import replace

from tollhouse.core.admission import Admission
from tollhouse.core.admission_messages import (
    Admit,
    Command,
    Event,
    Identify,
    Refuse,
    Release,
    RequestHeaders,
    ReservationAnswered,
    Reserve,
    StreamEnded,
)
from tollhouse.core.problems import Kind, Problem, ProtocolError
from tollhouse.core.reservation import Reservation, further_limits
from tollhouse.core.usage import Facts


class Message(msgspec.Struct, frozen=True):
    """One whole message, as an `Admission` takes it after the headers."""

    event: Event


class Broken(msgspec.Struct, frozen=True):
    """What the client sent is no message, and nothing after it can be one.

    Or a message can't be judged at all.
    """

    problem: Problem


class HalfClosed(msgspec.Struct, frozen=True):
    """The client sends no more."""


class Open(msgspec.Struct, frozen=True):
    """Let the stream in, then this message."""

    admit: Admit


class Forward(msgspec.Struct, frozen=True):
    """Let this message go on; `admit.facts` are of all up to it."""

    admit: Admit


class Stop(msgspec.Struct, frozen=True):
    """Let nothing more go on, and tell the client why when the rest is answered."""

    problem: Problem


class Finish(msgspec.Struct, frozen=True):
    """Let the end go on, then hang up with OK."""


StreamEvent = Message | ReservationAnswered | Broken | HalfClosed | StreamEnded
StreamCommand = Reserve | Open | Forward | Refuse | Stop | Finish | Release


class State(Enum):
    """Where a stream stands; of STOPPED and the last nothing goes on any more."""

    WAITING = auto()
    ASKING = auto()
    OPEN = auto()
    TOPPING_UP = auto()
    STOPPED = auto()
    REFUSED = auto()
    FINISHED = auto()


class StreamAdmission:
    """One stream on its way to a model; `begin` makes the admission of a message."""

    _message: Admission
    _reservation: Reservation
    _so_far: Facts

    def __init__(self, headers: RequestHeaders, begin: Callable[[], Admission]) -> None:
        self.state = State.WAITING
        self._headers = headers
        self._begin = begin
        self._ordinal = 0
        self._is_unsure = False

    def receive(self, event: StreamEvent) -> StreamCommand | None:
        """Advance by one event; return what must be done now.

        Raises ProtocolError for an event that can't come now: the caller ends the
        ext_proc stream with an error status, which ends the client's.
        """
        match event:
            case Message(event=inner):
                return self._judge(inner)
            case ReservationAnswered():
                if self.state not in {State.ASKING, State.TOPPING_UP}:
                    raise ProtocolError(f"a verdict in {self.state.name}")
                self._is_unsure = False
                return self._command(self._message.receive(event))
            case Broken(problem):
                return self._refuse(problem)
            case HalfClosed():
                return self._finish()
            case StreamEnded():
                return self._end()
            case unreachable:
                assert_never(unreachable)

    def _judge(self, event: Event) -> StreamCommand | None:
        if self.state is State.STOPPED:
            return None  # swallowed: the client does not know yet
        if self.state not in {State.WAITING, State.OPEN}:
            raise ProtocolError(f"a message in {self.state.name}")
        message = self._message = self._begin()
        first = message.receive(self._headers)
        if not isinstance(first, Identify):
            return self._command(first)
        return self._command(message.receive(event))

    def _command(self, command: Command | None) -> StreamCommand | None:
        match command:
            case Reserve():
                return self._ask(command)
            case Admit():
                return self._admit(command)
            case Refuse(problem):
                return self._refuse(problem)
            case _:
                raise ProtocolError(f"{type(command).__name__} for a message")

    def _ask(self, command: Reserve) -> StreamCommand | None:
        reservation = command.reservation
        self._ordinal += 1
        if self._ordinal > 1:
            so_far = self._so_far
            if reservation.facts.served_model != so_far.served_model:
                return self._refuse(
                    Problem(
                        Kind.INVALID_REQUEST,
                        "All requests of a stream must name the same model.",
                        "model_name",
                    )
                )
            reservation = dataclasses.replace(
                reservation,
                limits=further_limits(reservation.limits, so_far),
                ordinal=self._ordinal,
                so_far=so_far,
            )
        self._reservation = reservation
        self._is_unsure = self.state is State.WAITING
        self.state = State.ASKING if self._is_unsure else State.TOPPING_UP
        return replace(command, reservation=reservation)

    def _admit(self, admit: Admit) -> StreamCommand:
        is_first = self.state is State.ASKING
        if is_first:
            self._so_far = admit.facts
        else:
            self._so_far = self._reservation.whole
        self.state = State.OPEN
        admit = replace(admit, facts=self._so_far)
        return Open(admit) if is_first else Forward(admit)

    def _refuse(self, problem: Problem) -> StreamCommand | None:
        match self.state:
            case State.WAITING | State.ASKING:
                self.state = State.REFUSED
                return Refuse(problem)
            case State.OPEN | State.TOPPING_UP:
                self.state = State.STOPPED
                return Stop(problem)
            case _:
                return None

    def _finish(self) -> StreamCommand | None:
        match self.state:
            case State.OPEN:
                self.state = State.FINISHED
                return Finish()
            case State.WAITING:
                return self._refuse(
                    Problem(Kind.INVALID_REQUEST, "The stream has no request.")
                )
            case _:
                return None

    def _end(self) -> Release | None:
        """Give back what the first message may have reserved: nobody was told.

        Of a further one nothing is given back: its exchange will be settled.
        """
        if not self._is_unsure:
            return None
        self._is_unsure = False
        return Release(self._reservation)
