"""Streams of requests: performs what a `StreamAdmission` commands.

One ext_proc stream per stream of the client's, in full duplex, for as long as the
client may speak: ending it with OK before would let its further messages through
unjudged. When it has sent its last, the answers need us no more, and we hang up.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

import structlog
from structlog.contextvars import bind_contextvars

from tollhouse.adapters.grpc_frames import Frames, framed
from tollhouse.adapters.infer_messages import InferMessage
from tollhouse.core.admission import Admission
from tollhouse.core.admission_messages import (
    Admit,
    Refuse,
    Release,
    RequestRead,
    ReservationAnswered,
    Reserve,
    StreamEnded,
)
from tollhouse.core.ids import ExchangeId
from tollhouse.core.problems import Dialect, Kind, Problem, ProtocolError
from tollhouse.core.refusal import refuse
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
    StreamCommand,
    StreamEvent,
)
from tollhouse.extproc.convert import to_pb_problem
from tollhouse.extproc.reserving import AWAY, Reserving, Verdict, may_be_held
from tollhouse.extproc.stream_convert import (
    from_pb_opening,
    from_pb_piece,
    to_pb_end,
    to_pb_open,
    to_pb_piece,
    to_pb_stop,
)
from tollhouse.extproc.trail import Decision, Trail
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

_log = structlog.get_logger()

_STOPPING = Problem(
    Kind.UNAVAILABLE,
    "The gateway restarts; open a new stream.",
    headers={"retry-after": "1"},
)
MOST_ID_BYTES = 128
"""Of a request's id: a stream's are kept while it is open."""
_USUAL = (AWAY, _STOPPING)
"""Refusals that are no news: what is behind them is logged where it is met."""


class Streams:
    """All streams of a worker; `begin` makes the admission of a message.

    When `stopping` is set they take no more messages, and go on without us.
    """

    def __init__(
        self,
        begin: Callable[[ExchangeId, Trail], Admission],
        reserving: Reserving,
        proof: bytes,
        stopping: asyncio.Event,
    ) -> None:
        self._begin = begin
        self._reserving = reserving
        self._proof = proof
        self._stopping = stopping

    async def serve(
        self,
        opening: ext_proc.ProcessingRequest,
        messages: AsyncIterator[ext_proc.ProcessingRequest],
        trail: Trail,
    ) -> AsyncIterator[bytes | None]:
        """Yield the replies, in the end None: hang up with OK.

        Ends without it when the stream broke off; what is left of it is not ours.
        """
        headers, id_ = from_pb_opening(opening)
        trail.principal, trail.exchange_id = headers.principal, id_
        bind_contextvars(exchange_id=id_, request_id=headers.request_id)
        admission = StreamAdmission(headers, lambda: self._begin(id_, trail))
        reader = _Reader(id_)
        try:
            async with contextlib.aclosing(self._until_stopping(messages)) as coming:
                async for message in coming:
                    is_swallowed = admission.state is State.STOPPED
                    for event in () if is_swallowed else reader.events(message):
                        command = await self._command(admission, event, trail)
                        for reply in self._replies(command, reader, message, trail):
                            if isinstance(command, Refuse | Stop | Finish):
                                trail.replied()
                            yield reply
                        if isinstance(command, Refuse | Finish):
                            yield None
                            return
                    if message is None:
                        # The end went on: Envoy needs nobody for what is left.
                        yield None
                        return
        except Exception:
            trail.decision = Decision.FAILED
            raise
        finally:
            self._reserving.end(admission.receive(StreamEnded()), trail)

    async def _until_stopping(
        self, messages: AsyncIterator[ext_proc.ProcessingRequest]
    ) -> AsyncGenerator[ext_proc.ProcessingRequest | None]:
        """Yield the messages; None as the last where we stop before they end."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        coming: asyncio.Future[ext_proc.ProcessingRequest] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(anext(messages))
                await asyncio.wait(
                    (coming, stopping), return_when=asyncio.FIRST_COMPLETED
                )
                if not coming.done():
                    yield None
                    return
                try:
                    yield coming.result()
                except StopAsyncIteration:
                    return
        finally:
            stopping.cancel()
            if coming is not None:
                coming.cancel()

    async def _command(
        self, admission: StreamAdmission, event: StreamEvent, trail: Trail
    ) -> StreamCommand | None:
        command = admission.receive(event)
        if not isinstance(command, Reserve):
            return command
        verdict = await self._verdict(command, trail)
        if verdict is None:
            return admission.receive(Broken(AWAY))
        return admission.receive(ReservationAnswered(verdict))

    async def _verdict(self, command: Reserve, trail: Trail) -> Verdict:
        reserving = self._reserving
        verdict = await reserving.reserve(command, trail)
        if may_be_held(verdict, command):
            with reserving.place(command.reservation.facts.tenant) as is_free:
                if is_free:
                    verdict = await reserving.hold(command, trail)
        reserving.count(verdict, command.reservation, trail)
        return verdict

    def _replies(
        self,
        command: StreamCommand | None,
        reader: "_Reader",
        message: ext_proc.ProcessingRequest | None,
        trail: Trail,
    ) -> Iterator[bytes]:
        match command:
            case None:
                return
            case Open(admit):
                trail.decision = Decision.ADMITTED
                yield to_pb_open(admit, reader.exchange_id, self._proof)
                yield to_pb_piece(reader.written(admit))
            case Forward(admit):
                yield to_pb_piece(reader.written(admit), admit.facts)
            case Stop(problem):
                trail.refused(problem)
                yield to_pb_stop(problem, trail.trace_id)
            case Finish():
                yield to_pb_end(message)
            case Refuse(problem):
                trail.refused(problem)
                if problem.kind is Kind.UNAVAILABLE and problem not in _USUAL:
                    _log.error(
                        "admission.refused",
                        exchange_id=reader.exchange_id,
                        reason=problem.message,
                    )
                yield to_pb_problem(problem, Dialect.GRPC, trail.trace_id)
            case Reserve() | Release():
                raise ProtocolError(f"no reply for {type(command).__name__}")


class _Reader:
    """Reads one stream's messages, and writes them anew once they are judged."""

    _message: InferMessage

    def __init__(self, exchange_id: ExchangeId) -> None:
        self.exchange_id = exchange_id
        self._frames = Frames()
        self._ids = set[str]()
        self._numbers = itertools.count(2)  # of the ids that are ours
        self._is_broken = False

    def events(
        self, message: ext_proc.ProcessingRequest | None
    ) -> Iterator[StreamEvent]:
        """Yield what came; each is to be dealt with before the next.

        None: we stop, nothing more is to come.
        """
        if message is None:
            yield Broken(_STOPPING)
            return
        piece = from_pb_piece(message)
        if not self._is_broken:
            try:
                for body in self._frames.feed(piece.body):
                    yield Message(self._read(body))
                if piece.ends and not self._frames.is_between:
                    refuse("The last message is not whole.")
            except Problem as problem:
                self._is_broken = True
                yield Broken(problem)
        if piece.ends:
            yield HalfClosed()

    def _read(self, body: bytes) -> RequestRead:
        self._message = message = InferMessage(body)
        # The meter tells requests apart by what their answers repeat, up to a length.
        if len(message.id.encode()) > MOST_ID_BYTES:
            refuse(f"must have at most {MOST_ID_BYTES} bytes.", "id")
        if message.id and message.id in self._ids:
            refuse("was used before on this stream.", "id")
        if self._ids and not message.id:
            message.give_id(self._free_id())
        return RequestRead(message)

    def _free_id(self) -> str:
        """One that the client has not used, which knows what ours look like."""
        ids = (f"{self.exchange_id}-{number}" for number in self._numbers)
        return next(it for it in ids if it not in self._ids)

    def written(self, admit: Admit) -> bytes:
        """The message that was read last, as the backend gets it."""
        self._ids.add(self._message.id)
        return framed(admit.body)
