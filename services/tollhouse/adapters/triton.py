"""Triton over gRPC: one ModelStreamInfer per request, the only way to cancel in time.

Over HTTP an abandoned request keeps its place in the engine's queue and burns prefill
(measured). Tensors are packed and read as bytes: going through
numpy costs several times the rest of a token.
"""

import asyncio
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
from tritonclient.grpc import service_pb2 as triton_pb
from tritonclient.grpc import service_pb2_grpc as triton_grpc

from tollhouse.adapters.watchdog import Watchdog
from tollhouse.core.problems import Kind, Problem, Unavailable

# A Triton that was restarted is found again within a second.
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_SILENT = "The model did not answer in time."
_FINAL = "triton_final_response"
_SCALARS = {
    "BOOL": struct.Struct("<?"),
    "INT32": struct.Struct("<i"),
    "UINT64": struct.Struct("<Q"),
    "FP32": struct.Struct("<f"),
}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input: strings go as BYTES, scalars as their datatype."""

    name: str
    datatype: str
    values: Sequence[str | int | float | bool]

    def packed(self) -> bytes:
        """Return the values as Triton's raw contents."""
        if self.datatype == "BYTES":
            texts = [str(value).encode() for value in self.values]
            return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
        pack = _SCALARS[self.datatype].pack
        return b"".join(pack(value) for value in self.values)


@dataclass(frozen=True, slots=True)
class Inference:
    """What one request asks of Triton."""

    model: str
    request_id: str
    inputs: Sequence[Tensor]
    outputs: Sequence[str]
    batched: bool
    """Shapes begin with a batch dimension of one."""
    metadata: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """One response; `final` is the last, and may carry nothing."""

    outputs: Mapping[str, bytes]
    final: bool

    def text(self, name: str) -> bytes:
        """Return the first string of an output, not decoded: it may end anywhere."""
        raw = self.outputs[name]
        (length,) = _LENGTH.unpack_from(raw)
        return raw[_LENGTH.size : _LENGTH.size + length]

    def integer(self, name: str) -> int:
        """Return the first value of an INT32 output."""
        value: int = _SCALARS["INT32"].unpack_from(self.outputs[name])[0]
        return value


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an engine may be silent, in seconds."""

    first: float = 240.0
    """Queue and prefill together; for an answer in one piece, all of it."""
    next: float = 30.0
    """Between two responses: a crashed Python stub leaves its streams silent."""


class Triton:
    """A connection to one Triton server."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stub: Any = triton_grpc.GRPCInferenceServiceStub(channel)

    @classmethod
    def connect(cls, target: str) -> Self:
        """Return at once; the connection is made, and made again, when needed."""
        return cls(grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS))

    async def close(self) -> None:
        """Close the connection; running requests are cancelled."""
        await self._channel.close()

    async def is_ready(self, model: str, *, timeout_seconds: float = 1.0) -> bool:
        """Ask whether Triton has this model loaded."""
        request = triton_pb.ModelReadyRequest(name=model)
        try:
            answer = await self._stub.ModelReady(request, timeout=timeout_seconds)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.ready)

    def infer(self, inference: Inference, patience: Patience) -> "Answer":
        """Begin a request; it is sent when the answer is first read."""
        call = self._stub.ModelStreamInfer(metadata=tuple(inference.metadata))
        return Answer(call, _to_pb_request(inference), patience)


class Answer:
    """The responses to one request, in order. Whoever reads must also cancel."""

    def __init__(self, call: Any, request: Any, patience: Patience) -> None:
        self._call = call
        self._request = request
        self._patience = patience
        self._watchdog = Watchdog(call.cancel, patience.first)
        self._sent = False

    def cancel(self) -> None:
        """Give the request up: frees its slot in the engine. Harmless at the end."""
        self._watchdog.stop()
        self._call.cancel()

    async def finish(self) -> None:
        """Take the end of the RPC that follows the final response.

        Cancelling instead would reach a server that is just closing the stream, and
        Triton has crashed in such races (server issues 7368, 8034).
        """
        self._watchdog.wait()
        try:
            while await self._call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass  # the answer is complete all the same
        except asyncio.CancelledError:
            if not self._watchdog.expired:
                raise
        finally:
            self._watchdog.stop()

    async def read(self) -> Response:
        """Return the next response; there is none after the final one.

        Raises Problem or Unavailable, whatever was read before: a stream that ends
        without its final response is a failure, never an end.
        """
        self._watchdog.wait()
        try:
            if not self._sent:
                await self._send()
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _from_status(error) from error
        except asyncio.CancelledError:
            if self._watchdog.expired:
                raise Problem(Kind.TIMED_OUT, _SILENT) from None
            raise
        finally:
            self._watchdog.rest(self._patience.next)
        if message is grpc.aio.EOF:
            raise Problem(Kind.UPSTREAM_FAILED, "The model's answer broke off.")
        if message.error_message:
            raise _from_message(message.error_message)
        return self._read(message.infer_response)

    async def _send(self) -> None:
        self._sent = True
        try:
            await self._call.write(self._request)
            await self._call.done_writing()
        except asyncio.InvalidStateError:
            pass  # the RPC is over already: reading tells why

    def _read(self, response: Any) -> Response:
        parameters = response.parameters
        final = _FINAL in parameters and bool(parameters[_FINAL].bool_param)
        if final:
            self._watchdog.stop()
        contents = response.raw_output_contents
        outputs = {
            output.name: contents[index]
            for index, output in enumerate(response.outputs)
        }
        return Response(outputs, final)


def _to_pb_request(inference: Inference) -> Any:
    lead = [1] if inference.batched else []
    request = triton_pb.ModelInferRequest(
        model_name=inference.model,
        id=inference.request_id,
        inputs=[
            triton_pb.ModelInferRequest.InferInputTensor(
                name=tensor.name,
                datatype=tensor.datatype,
                shape=[*lead, len(tensor.values)],
            )
            for tensor in inference.inputs
        ],
        outputs=[
            triton_pb.ModelInferRequest.InferRequestedOutputTensor(name=name)
            for name in inference.outputs
        ],
        raw_input_contents=[tensor.packed() for tensor in inference.inputs],
    )
    # An end marker of its own, whatever the model does.
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


def _from_status(error: grpc.aio.AioRpcError) -> Problem | Unavailable:
    """Turn the failure of an RPC into ours: the way to Triton, not its models."""
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Problem(Kind.INVALID_REQUEST, "The model refused the request.")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Problem(Kind.TIMED_OUT, _SILENT)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.NOT_FOUND:
            return Unavailable("Triton is away")
        case _:
            return Problem(Kind.UPSTREAM_FAILED, "The model failed.")


# What Triton and TensorRT-LLM say, in the order in which we look for it.
_AWAY = ("unknown model", "is not ready", "is not healthy", "stopped accepting")
_FULL = ("exceeds maximum queue size",)
_TOO_LONG = ("exceeds maximum input length", "exceed max_seq_len")
_UNGUIDED = ("guided decoding", "guideddecoding")


def _from_message(message: str) -> Problem | Unavailable:
    """Turn a response's error into ours. Its text is read, never passed on.

    There is no code in it, only words. The header `triton_grpc_error` would make
    Triton end the RPC with the true code instead, but in 2.51 it aborts the whole
    server within seconds once callers leave and requests fail (measured).
    """
    words = message.lower()
    if any(text in words for text in _FULL):
        return Problem(
            Kind.OVERLOADED, "The model's queue is full.", headers={"retry-after": "1"}
        )
    if any(text in words for text in _TOO_LONG):
        return Problem(
            Kind.CONTEXT_LENGTH,
            "The prompt is longer than the model takes.",
            "messages",
        )
    if any(text in words for text in _UNGUIDED):
        return Problem(Kind.UNSUPPORTED, "The model can't follow this JSON schema.")
    if any(text in words for text in _AWAY):
        return Unavailable("Triton has the model not ready")
    return Problem(Kind.UPSTREAM_FAILED, "The model failed.")
