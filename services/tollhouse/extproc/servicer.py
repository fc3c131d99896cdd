"""ExternalProcessor: performs what an `Admission` commands.

One gRPC stream per request. It ends with OK right after the admission reply: Envoy
then goes on alone, and no restart of this service cuts a running response. Ending
with OK *before* that would let the request through unjudged, so every other way out
is an immediate response or an error status.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet

import grpc
import structlog
from structlog.contextvars import bind_contextvars

from tollhouse.adapters.live import Live
from tollhouse.adapters.metrics import Metrics
from tollhouse.adapters.tokenizer import Tokenizers
from tollhouse.adapters.tracing import Tracing, context_of
from tollhouse.core.admission import Admission
from tollhouse.core.admission_messages import (
    Admit,
    Answer,
    Command,
    CountTokens,
    Identify,
    ReadOn,
    Refuse,
    RequestHeaders,
    ReservationAnswered,
    Reserve,
    StreamEnded,
    TokensCounted,
)
from tollhouse.core.experience import Experience
from tollhouse.core.ids import ExchangeId, exchange_id
from tollhouse.core.inquiry import Pass
from tollhouse.core.inquiry_pace import InquiryPace
from tollhouse.core.problems import Dialect, Kind, Problem, ProtocolError
from tollhouse.core.surface import dialect_of
from tollhouse.extproc import own_server
from tollhouse.extproc.convert import (
    from_pb_request,
    to_pb_admit,
    to_pb_answer,
    to_pb_hold,
    to_pb_identify,
    to_pb_pass,
    to_pb_problem,
    to_pb_read_on,
)
from tollhouse.extproc.ladder import Ladder
from tollhouse.extproc.reserving import AWAY, Reserving, Verdict, may_be_held
from tollhouse.extproc.stream_convert import is_of_stream
from tollhouse.extproc.streams import Streams
from tollhouse.extproc.trail import Decision, Trail
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

_log = structlog.get_logger()

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"


class ExternalProcessorServicer:
    """Admits or refuses; never sees a response.

    Each request is judged by the catalog that is `live` when it comes.
    """

    def __init__(
        self,
        *,
        live: Live,
        experience: Experience,
        tokenizers: Tokenizers,
        ladder: Ladder,
        metrics: Metrics,
        proof: bytes,
        tracing: Tracing,
        down: Callable[[], AbstractSet[str]] = frozenset,
        stopping: asyncio.Event | None = None,
    ) -> None:
        """Take what decides; `down` tells which clusters have no healthy host.

        `stopping` is set when this process is to end.
        """
        self._live = live
        self._experience = experience
        self._tokenizers = tokenizers
        self._reserving = Reserving(ladder, metrics, tracing)
        self._streams = Streams(
            self._begin, self._reserving, proof, stopping or asyncio.Event()
        )
        self._proof = proof
        self._pace = InquiryPace()
        self._down = down

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register on a server."""
        method: grpc.RpcMethodHandler[ext_proc.ProcessingRequest, bytes]
        method = grpc.stream_stream_rpc_method_handler(
            self.process,
            request_deserializer=ext_proc.ProcessingRequest.FromString,
            response_serializer=None,  # replies are made as bytes
        )
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE, {"Process": method})]
        )
        own_server.add_to(server)

    async def process(
        self,
        messages: AsyncIterator[ext_proc.ProcessingRequest],
        context: grpc.aio.ServicerContext[ext_proc.ProcessingRequest, bytes],
    ) -> AsyncIterator[bytes]:
        """Run one admission over one stream, or that of a stream of requests."""
        id_ = exchange_id(time.time_ns() // 1_000_000, os.urandom(10))
        # Of this call, which is Envoy's: what the client sent is no word of Envoy's.
        trail = Trail(context_of(context.invocation_metadata() or ()))
        # Of this call alone: it is a task of its own, which begins without any.
        bind_contextvars(exchange_id=id_, trace_id=trail.trace_id)
        is_over = False
        try:
            first = await anext(messages, None)
            if first is not None and is_of_stream(first):
                replies = self._streams.serve(first, messages, trail)
            else:
                replies = self._replies(id_, first, messages, trail)
            async for reply in replies:
                if reply is None:
                    is_over = True
                else:
                    yield reply
        except ProtocolError as error:
            _log.error("admission.failed", reason=str(error))
        except Exception:  # noqa: BLE001 - the boundary: a bug is a 503, and logged
            _log.exception("admission.failed")
        if not is_over:
            # Without an answer, where an OK would be a free ride.
            await context.abort(grpc.StatusCode.INTERNAL, "not admitted")

    async def _replies(
        self,
        id_: ExchangeId,
        message: ext_proc.ProcessingRequest | None,
        further: AsyncIterator[ext_proc.ProcessingRequest],
        trail: Trail,
    ) -> AsyncIterator[bytes | None]:
        """Yield the replies, in the end None: hang up with OK."""
        admission = self._begin(id_, trail)
        reserving, headers = self._reserving, None
        dialect = Dialect.OPENAI
        try:
            while message is not None:
                event = from_pb_request(message, headers)
                if isinstance(event, RequestHeaders):
                    headers, trail.principal = event, event.principal
                    bind_contextvars(request_id=event.request_id)
                    dialect = Dialect.GRPC if event.is_grpc else dialect_of(event.path)
                command = await self._counted(admission, admission.receive(event))
                if isinstance(command, Reserve):
                    verdict = await reserving.reserve(command, trail)
                    if may_be_held(verdict, command):
                        with reserving.place(command.reservation.facts.tenant) as free:
                            if free:
                                yield to_pb_hold(command.hold_seconds)
                                verdict = await reserving.hold(command, trail)
                    reserving.count(verdict, command.reservation, trail)
                    command = _told(admission, verdict)
                reply = self._reply(command, id_, dialect, trail)
                is_last = not _goes_on(command)
                if is_last:
                    trail.replied()
                yield reply
                if is_last:
                    yield None
                    return
                message = await anext(further, None)
        except Exception:
            trail.decision = Decision.FAILED
            raise
        finally:
            reserving.end(admission.receive(StreamEnded()), trail)

    def _begin(self, id_: ExchangeId, trail: Trail) -> Admission:
        return Admission(
            id_, self._live.catalog, self._experience, self._down(), trail.traceparent
        )

    async def drain(self) -> None:
        """Wait for the releases under way; call it once the server has stopped."""
        await self._reserving.drain()

    def _reply(
        self, command: Command | None, id_: str, dialect: Dialect, trail: Trail
    ) -> bytes:
        match command:
            case Identify():
                trail.exchange_id = id_
                if command.is_all:
                    trail.decision = Decision.NAMED
                return to_pb_identify(command)
            case ReadOn():
                return to_pb_read_on()
            case Admit():
                trail.decision = Decision.ADMITTED
                return to_pb_admit(command, id_, self._proof)
            case Pass():
                return self._passed(command, dialect, trail)
            case Answer():
                trail.decision = Decision.ANSWERED
                return to_pb_answer(command)
            case Refuse(problem):
                trail.refused(problem)
                _report(problem, id_)
                return to_pb_problem(problem, dialect, trail.trace_id)
            case _:
                raise ProtocolError(f"no reply for {type(command).__name__}")

    def _passed(self, command: Pass, dialect: Dialect, trail: Trail) -> bytes:
        asking = trail.principal
        try:
            if asking is not None:
                self._pace.take(asking.key_id, time.time_ns() // 1_000_000)
        except Problem as problem:
            trail.refused(problem)
            return to_pb_problem(problem, dialect, trail.trace_id)
        trail.decision = Decision.PASSED
        return to_pb_pass(command, self._proof)

    async def _counted(
        self, admission: Admission, command: Command | None
    ) -> Command | None:
        """What comes after counting, where that is asked for."""
        if not isinstance(command, CountTokens):
            return command
        tokens = await self._tokenizers.count(command.model, command.texts)
        return admission.receive(TokensCounted(tokens))


def _goes_on(command: Command | None) -> bool:
    """Whether a body is still to come."""
    return isinstance(command, ReadOn) or (
        isinstance(command, Identify) and not command.is_all
    )


def _told(admission: Admission, verdict: Verdict) -> Command | None:
    if verdict is None:
        return Refuse(AWAY)
    return admission.receive(ReservationAnswered(verdict))


def _report(problem: Problem, id_: str) -> None:
    """Log a refusal that is our fault: Envoy words it, the client learns nothing.

    An outage was logged where it was met.
    """
    if problem.kind is Kind.UNAVAILABLE and problem is not AWAY:
        _log.error("admission.refused", exchange_id=id_, reason=problem.message)
