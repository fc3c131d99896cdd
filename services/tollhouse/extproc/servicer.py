"""ExternalProcessor: performs what an `Admission` commands.

One gRPC stream per request. It ends with OK right after the admission reply: Envoy
then goes on alone, and no restart of this service cuts a running response. Ending
with OK *before* that would let the request through unjudged, so every other way out
is an immediate response or an error status.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator

import grpc
import structlog

from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.core.admission import (
    Admission,
    Admit,
    Answer,
    Command,
    Identify,
    Refuse,
    Release,
    ReservationAnswered,
    Reserve,
    StreamEnded,
)
from tollhouse.core.catalog import Catalog
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Reservation
from tollhouse.core.problems import Kind, Problem, ProtocolError, Unavailable
from tollhouse.extproc.convert import (
    from_pb_request,
    to_pb_admit,
    to_pb_answer,
    to_pb_identify,
    to_pb_problem,
)
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

_log = structlog.get_logger()

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"

_AWAY = Problem(
    Kind.UNAVAILABLE,
    "Limits can't be checked right now; try again in a moment.",
    headers={"retry-after": "1"},
)


class ExternalProcessorServicer:
    """Admits or refuses; never sees a response."""

    def __init__(self, catalog: Catalog, limiter: Limiter, proof: bytes) -> None:
        self._catalog = catalog
        self._limiter = limiter
        self._proof = proof
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
        admission = Admission(id_, self._catalog)
        try:
            async for message in messages:
                command = admission.receive(from_pb_request(message))
                if isinstance(command, Reserve):
                    command = await self._reserve(admission, command.reservation)
                match command:
                    case Identify():
                        yield to_pb_identify(command)
                    case Admit():
                        yield to_pb_admit(command, id_, self._proof)
                        return
                    case Answer():
                        yield to_pb_answer(command)
                        return
                    case Refuse(problem):
                        _report(problem, id_)
                        yield to_pb_problem(problem)
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

    async def _reserve(
        self, admission: Admission, reservation: Reservation
    ) -> Command | None:
        try:
            verdict = await self._limiter.reserve(reservation)
        except Unavailable as error:
            _log.warning("reservation.failed", reason=str(error))
            return Refuse(_AWAY)
        return admission.receive(ReservationAnswered(verdict))

    def _release_later(self, reservation: Reservation) -> None:
        task = asyncio.create_task(self._release(reservation))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, reservation: Reservation) -> None:
        try:
            await self._limiter.release(reservation)
        except Unavailable:
            # The ledger's end line, which has no `admitted`, releases it later.
            _log.warning("release.postponed", exchange_id=reservation.exchange_id)


def _report(problem: Problem, id_: str) -> None:
    """Log a refusal that is our fault: Envoy words it, the client learns nothing.

    An outage was logged where it was met.
    """
    if problem.kind is Kind.UNAVAILABLE and problem is not _AWAY:
        _log.error("admission.refused", exchange_id=id_, reason=problem.message)
