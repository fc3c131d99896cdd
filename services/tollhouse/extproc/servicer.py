"""ExternalProcessor: performs what an `Admission` commands.

One gRPC stream per request. It ends with OK right after the admission reply: Envoy
then goes on alone, and no restart of this service cuts a running response. Ending
with OK *before* that would let the request through unjudged, so every other way out
is an immediate response or an error status.
"""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import grpc
import structlog

from tollhouse.adapters.live import Live
from tollhouse.adapters.metrics import Metrics
from tollhouse.adapters.tokenizer import Tokenizers
from tollhouse.core.admission import (
    Admission,
    Admit,
    Answer,
    Command,
    CountTokens,
    Identify,
    Refuse,
    Release,
    RequestHeaders,
    ReservationAnswered,
    Reserve,
    StreamEnded,
    TokensCounted,
)
from tollhouse.core.experience import Experience
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Measure
from tollhouse.core.problems import Dialect, Kind, Problem, ProtocolError, Unavailable
from tollhouse.core.reservation import Granted, Refused, Reservation
from tollhouse.core.surface import dialect_of
from tollhouse.extproc.convert import (
    from_pb_request,
    to_pb_admit,
    to_pb_answer,
    to_pb_hold,
    to_pb_identify,
    to_pb_problem,
)
from tollhouse.extproc.ladder import Ladder
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

_log = structlog.get_logger()

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"

_AWAY = Problem(
    Kind.UNAVAILABLE,
    "Limits can't be checked right now; try again in a moment.",
    headers={"retry-after": "1"},
)


Verdict = Granted | Refused | None
"""None: nobody could judge."""

HOLD_STEP_SECONDS = 0.05
"""How often a held request asks again: a Redis call each."""
MOST_HELD = 256
"""Requests held at once, per worker; one more is refused at once."""
MOST_HELD_OF_TENANT = 32
"""Of these, of one tenant: nobody waits in all the places there are."""


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
    ) -> None:
        self._live = live
        self._experience = experience
        self._tokenizers = tokenizers
        self._ladder = ladder
        self._failed_for: str | None = None
        self._metrics = metrics
        self._proof = proof
        self._held = Counter[str]()
        self._releases: set[asyncio.Task[None]] = set()

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

    async def process(
        self,
        messages: AsyncIterator[ext_proc.ProcessingRequest],
        context: grpc.aio.ServicerContext[ext_proc.ProcessingRequest, bytes],
    ) -> AsyncIterator[bytes]:
        """Run one admission over one stream."""
        id_ = exchange_id(time.time_ns() // 1_000_000, os.urandom(10))
        admission = Admission(id_, self._live.catalog, self._experience)
        dialect = Dialect.OPENAI
        try:
            async for message in messages:
                event = from_pb_request(message)
                if isinstance(event, RequestHeaders):
                    dialect = Dialect.GRPC if event.is_grpc else dialect_of(event.path)
                command = await self._counted(admission, admission.receive(event))
                if isinstance(command, Reserve):
                    verdict = await self._reserve(command)
                    if _may_be_held(verdict, command):
                        with self._place(command.reservation.facts.tenant) as is_free:
                            if is_free:
                                yield to_pb_hold(command.hold_seconds)
                                verdict = await self._hold(command)
                    self._count(verdict, command.reservation)
                    command = _told(admission, verdict)
                yield self._reply(command, id_, dialect)
                if not isinstance(command, Identify):
                    return
        except ProtocolError as error:
            _log.error("admission.failed", exchange_id=id_, reason=str(error))
        except Exception:  # noqa: BLE001 - the boundary: a bug is a 503, and logged
            _log.exception("admission.failed", exchange_id=id_)
        finally:
            ending = admission.receive(StreamEnded())
            if isinstance(ending, Release):
                self._release_later(ending.reservation)
        # Reached only without an answer: an OK here would be a free ride.
        await context.abort(grpc.StatusCode.INTERNAL, "not admitted")

    async def drain(self) -> None:
        """Wait for the releases under way; call it once the server has stopped."""
        await asyncio.gather(*self._releases)

    def _reply(self, command: Command | None, id_: str, dialect: Dialect) -> bytes:
        match command:
            case Identify():
                return to_pb_identify(command)
            case Admit():
                return to_pb_admit(command, id_, self._proof)
            case Answer():
                return to_pb_answer(command)
            case Refuse(problem):
                _report(problem, id_)
                return to_pb_problem(problem, dialect)
            case _:
                raise ProtocolError(f"no reply for {type(command).__name__}")

    async def _counted(
        self, admission: Admission, command: Command | None
    ) -> Command | None:
        """What comes after counting, where that is asked for."""
        if not isinstance(command, CountTokens):
            return command
        tokens = await self._tokenizers.count(command.model, command.texts)
        return admission.receive(TokensCounted(tokens))

    async def _reserve(self, command: Reserve) -> Verdict:
        try:
            verdict = await self._ladder.reserve(
                command.reservation, command.redis_down
            )
        except Unavailable as error:
            # Of the others the ladder tells; these would fill the log as well.
            if not error.transient and str(error) != self._failed_for:
                self._failed_for = str(error)
                _log.error("reservation.failed", reason=self._failed_for)
            return None
        self._failed_for = None
        return verdict

    async def _hold(self, command: Reserve) -> Verdict:
        """Ask again until there is room, something else refuses, or the time is up."""
        clock = asyncio.get_running_loop().time
        until = clock() + command.hold_seconds
        held = Reserve(
            replace(command.reservation, is_held=True),
            command.redis_down,
            command.hold_seconds,
        )
        while True:
            await asyncio.sleep(min(HOLD_STEP_SECONDS, max(0, until - clock())))
            verdict = await self._reserve(held)
            if not _may_be_held(verdict, held) or clock() >= until:
                return verdict

    @contextlib.contextmanager
    def _place(self, tenant: str) -> Iterator[bool]:
        """Take a place among the held until the block ends, if one is free."""
        held = self._held
        if held.total() >= MOST_HELD or held[tenant] >= MOST_HELD_OF_TENANT:
            yield False
            return
        held[tenant] += 1
        try:
            yield True
        finally:
            held[tenant] -= 1
            if not held[tenant]:
                del held[tenant]

    def _count(self, verdict: Verdict, reservation: Reservation) -> None:
        """Tell operators which limits bind."""
        facts = reservation.facts
        match verdict:
            case Refused(limit):
                self._metrics.refused(limit, facts.served_model, facts.plan)
            case Granted(shadowed=limits):
                for limit in limits:
                    self._metrics.shadowed(limit, facts.served_model, facts.plan)
                    _log.info(
                        "limit.shadowed",
                        exchange_id=reservation.exchange_id,
                        tenant=facts.tenant,
                        key_id=facts.key_id,
                        scope=limit.scope.name.lower(),
                        measure=limit.measure.name.lower(),
                    )

    def _release_later(self, reservation: Reservation) -> None:
        task = asyncio.create_task(self._release(reservation))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, reservation: Reservation) -> None:
        # Else the ledger's end line, which has no `admitted`, releases it later.
        with contextlib.suppress(Unavailable):
            await self._ladder.release(reservation)


def _may_be_held(verdict: Verdict, command: Reserve) -> bool:
    """Whether time may help: the model is full, the client over no limit of its own."""
    return (
        isinstance(verdict, Refused)
        and command.hold_seconds > 0
        and verdict.limit.measure is Measure.CAPACITY
    )


def _told(admission: Admission, verdict: Verdict) -> Command | None:
    if verdict is None:
        return Refuse(_AWAY)
    return admission.receive(ReservationAnswered(verdict))


def _report(problem: Problem, id_: str) -> None:
    """Log a refusal that is our fault: Envoy words it, the client learns nothing.

    An outage was logged where it was met.
    """
    if problem.kind is Kind.UNAVAILABLE and problem is not _AWAY:
        _log.error("admission.refused", exchange_id=id_, reason=problem.message)
